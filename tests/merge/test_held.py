"""Weights as training saw them: bitsandbytes' own values, bit for bit, whatever rows are asked for."""

import pytest
import torch
import transformers
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt, Params4bit

from peftkit.config import ModelConfig, RunConfig
from peftkit.merge.held import Held, quantized_layers
from peftkit.model.load import Source, load_model

from .bases import CONFIGS, base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(256, 64), (300, 50), (200, 7)])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_rows_are_those_of_the_whole_weight(kind, shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    if kind == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
        whole = functional.int8_vectorwise_dequant(codes, scales).to(dtype)
    else:
        held = Params4bit(weight.to(dtype), requires_grad=False, quant_type=kind, compress_statistics=True)
        held = held._quantize("cpu")
        whole = functional.dequantize_4bit(held.data, held.quant_state)
    asked = []

    def rows(first, count):
        asked.append(count)
        return weight[first : first + count]

    found = Held(rows, shape, kind, dtype, block=64 * shape[1])
    assert max(asked, default=0) <= 64
    pieces = [found.rows(first, min(64, shape[0] - first)) for first in range(0, shape[0], 64)]
    assert torch.equal(torch.cat(pieces), whole)
    assert not torch.equal(whole, weight.to(dtype))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "mixtral"])
def test_the_layers_are_those_that_loading_quantizes(name, kind):
    config = RunConfig(recipe="none", model={"path": str(base(name)), "quantization": kind, "dtype": "float32"})
    model = load_model(Source(str(base(name))), config, "causal")
    wanted = {path for path, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}
    found = quantized_layers(
        transformers.AutoModelForCausalLM, CONFIGS[name], ModelConfig(quantization=kind), torch.float32, head=False
    )
    assert found == wanted
    assert found
