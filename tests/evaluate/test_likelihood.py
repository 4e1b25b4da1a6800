"""Scores equal the loss that transformers computes for each example alone, and projections stay small."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Gemma2Config, Gemma2ForCausalLM

from peftkit.data.examples import Example
from peftkit.evaluate import likelihood
from peftkit.evaluate.likelihood import score_examples

from ..stages import make_visible

VOCABULARY = 250


def examples():
    """Examples of many lengths and masks; the last two have no prompt, and one of them a single token."""
    torch.manual_seed(2)
    made = []
    for number, (prompt, completion) in enumerate([(5, 3), (1, 30), (12, 1), (40, 17), (3, 9), (0, 8), (0, 1)]):
        ids = torch.randint(3, VOCABULARY, (prompt + completion,)).tolist()
        trained = None if number % 2 else [place % 3 != 1 for place in range(completion)]
        made.append(Example(f"{number}", {}, "", ids[:prompt], ids[prompt:], False, trained))
    return made


def load(folder, **settings):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings).eval()


def reference(model, example):
    """Loss, tokens and hits of one example without padding, from all of its logits."""
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    labels = torch.tensor([[-100] * len(example.prompt_ids) + example.trained_ids])
    targets = labels[0, 1:]
    scored = targets != -100
    if not scored.any():
        return 0.0, 0, 0
    with torch.inference_mode():
        output = model(input_ids=ids, labels=labels)
    likeliest = output.logits[0, -len(labels[0]) : -1].argmax(-1)
    return float(output.loss) * int(scored.sum()), int(scored.sum()), int((likeliest == targets)[scored].sum())


def check(model, rows=None):
    rows = rows or examples()
    scored = score_examples(model, rows, batch_size=4)
    wanted = [reference(model, row) for row in rows]
    assert [one.tokens for one in scored] == [tokens for _, tokens, _ in wanted]
    assert [one.nll for one in scored] == pytest.approx([nll for nll, _, _ in wanted], rel=1e-4)
    assert [one.hits for one in scored] == [hits for _, _, hits in wanted]
    return scored


def lora(model, **settings):
    return make_visible(get_peft_model(model, LoraConfig(r=4, **settings)).eval())


def test_it_is_the_loss_of_each_example(tiny_model):
    scored = check(load(tiny_model))
    assert [one.tokens for one in scored] == [2, 30, 1, 17, 6, 7, 0]
    assert all(one.nll > one.tokens for one in scored[:-1]), "a random model is unsure"


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_with_an_adapter_and_without(tiny_model, targets):
    base = [one.nll for one in check(load(tiny_model))]
    model = lora(load(tiny_model), target_modules=targets)
    assert abs(check(model)[1].nll - base[1]) > 0.01
    with model.disable_adapter():
        assert [one.nll for one in check(model)] == pytest.approx(base, rel=1e-5)


def test_a_soft_prompt_stands_before_the_first_token(tiny_model):
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    check(get_peft_model(load(tiny_model), settings).eval(), examples()[:5])


@pytest.mark.parametrize("adapted", [False, True])
def test_on_a_quantized_base(tiny_model, adapted):
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = load(tiny_model, quantization_config=settings)
    check(lora(model, target_modules="all-linear") if adapted else model)


def test_caps_and_scales_of_the_logits_are_the_models_own():
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma2Config(
        vocab_size=VOCABULARY, num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5, **settings
    )
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.5)
    capped = check(model)
    model.config.final_logit_softcapping = None
    assert abs(check(model)[1].nll - capped[1].nll) > 0.1


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_neither_batches_nor_chunks_change_a_score(tiny_model, monkeypatch, batch_size):
    model = load(tiny_model)
    whole = [one.nll for one in score_examples(model, examples(), batch_size=4)]
    sizes, done = [], []
    head = model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 5 * model.config.vocab_size)
    monkeypatch.setattr(likelihood, "MAX_TOKENS", 120)
    scored = score_examples(model, examples(), batch_size=batch_size, on_batch=done.append)
    head.remove()
    assert [one.nll for one in scored] == pytest.approx(whole, rel=1e-5)
    assert sum(done) == len(scored)
    assert max(done) <= min(batch_size, 6)
    assert max(sizes) <= likelihood.MAX_LOGITS


def test_a_model_is_left_as_it_was(tiny_model):
    model = load(tiny_model)
    before = dict(model.model.__dict__)
    score_examples(model, examples(), batch_size=4)
    assert model.model.__dict__ == before
    assert not model.model._forward_hooks


def test_no_examples_have_no_scores(tiny_model):
    assert score_examples(load(tiny_model), [], batch_size=4) == []
