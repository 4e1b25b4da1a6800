"""Every method on an encoder with a classification head, and on an encoder-decoder."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from peftkit.adapter.adalora import after_optimizer_step
from peftkit.adapter.attach import attach, load_adapter, save_adapter
from peftkit.adapter.convert import to_lora
from peftkit.adapter.methods import METHODS
from peftkit.config import AdapterConfig, ModelConfig
from peftkit.errors import ConfigError

from .exercise import EXTRA, IDS

NONE = ModelConfig(quantization="none")
TRAINED = [method for method in METHODS if not method.refusal("none")]


def encoder(dtype):
    shape = BertConfig(
        vocab_size=259, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, num_labels=3
    )
    model = BertForSequenceClassification(shape).eval().to(dtype).requires_grad_(False)
    model.classifier.requires_grad_(True)  # as `load_model` leaves it: what is not frozen is the head
    return model, "SEQ_CLS", torch.tensor([0, 2])


def encoder_decoder(dtype):
    shape = T5Config(vocab_size=259, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(shape).eval().to(dtype), "SEQ_2_SEQ_LM", IDS


@pytest.mark.parametrize("make", [encoder, encoder_decoder])
@pytest.mark.parametrize("method", TRAINED, ids=lambda method: method.name)
def test_each_method_trains_and_comes_back(tmp_path, make, method):
    torch.manual_seed(0)
    base, task, labels = make(torch.float32)
    config = AdapterConfig(method=method.name, extra=EXTRA.get(method.name, {}), **({"r": 4} if method.rank else {}))
    if task not in method.tasks:
        with pytest.raises(ConfigError, match=f"cannot train a model for {task}"):
            attach(base, config, base=NONE, seed=0, task_type=task)
        return
    model = attach(copy.deepcopy(base), config, base=NONE, seed=0, task_type=task, steps=1)
    before = step(model, labels)
    now = dict(model.named_parameters())
    heads = [name for name in before if "classifier" in name]
    assert len(heads) == (2 if task == "SEQ_CLS" else 0)
    assert all(not torch.equal(now[name], before[name]) for name in heads)
    save_adapter(model, tmp_path)
    torch.manual_seed(99)
    loaded = load_adapter(base, tmp_path)
    assert torch.allclose(logits(loaded, labels), logits(model, labels), atol=1e-5)


def test_a_head_is_trained_in_float32_and_asked_in_bfloat16(tmp_path):
    base, task, labels = encoder(torch.bfloat16)
    model = attach(copy.deepcopy(base), AdapterConfig(r=4), base=NONE, seed=0, task_type=task)
    assert {value.dtype for value in step(model, labels).values()} == {torch.float32}
    save_adapter(model, tmp_path)
    assert torch.equal(logits(load_adapter(base, tmp_path), labels), logits(model, labels))


def test_a_head_comes_along_when_an_adapter_becomes_lora():
    base, task, labels = encoder(torch.float32)
    model = attach(base, AdapterConfig(method="miss", r=4), base=NONE, seed=0, task_type=task)
    step(model, labels)
    converted = to_lora(model, 4, {"input_ids": IDS})
    assert converted.logit_error < 1e-4


def step(model, labels):
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    model.train()(input_ids=IDS, labels=labels).loss.backward()
    optimizer.step()
    after_optimizer_step(model, 0)
    return before


def logits(model, labels):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS, labels=labels).logits
