"""LoRA layers of PEFT on each kind of frozen weights, with an update that is not zero."""

import bitsandbytes
import torch
from peft import LoraConfig, inject_adapter_in_model

IN, OUT, RANK = 64, 96, 4


def lora_layer(held: str, *, dtype: torch.dtype = torch.float32, bias: bool = True, **settings):
    """Return one trained-looking LoRA layer in training mode; `held` is none, nf4 or int8."""
    torch.manual_seed(0)
    base = torch.nn.Linear(IN, OUT, bias=bias).to(dtype)
    if held == "nf4":
        quantized = bitsandbytes.nn.Linear4bit(IN, OUT, bias=bias, quant_type="nf4", compute_dtype=dtype)
    elif held == "int8":
        quantized = bitsandbytes.nn.Linear8bitLt(IN, OUT, bias=bias, has_fp16_weights=False)
    if held != "none":
        quantized.load_state_dict(base.state_dict())
        base = quantized.to("cpu")
    model = torch.nn.Sequential(base)
    inject_adapter_in_model(LoraConfig(r=RANK, target_modules=["0"], **settings), model)
    layer = model[0].train()
    for name, value in layer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
        value.requires_grad_("lora_" in name)
    return layer


def gradients(layer, x: torch.Tensor, above: torch.Tensor):
    """Return the output, and the gradients of the input and of the adapter's parameters by name."""
    x = x.clone().requires_grad_()
    trained = {name: value for name, value in layer.named_parameters() if value.requires_grad}
    output = layer(x)
    found = torch.autograd.grad(output, (x, *trained.values()), above.to(output.dtype))
    return output.detach(), dict(zip(("x", *trained), found, strict=True))
