"""Every method of PEFT does here what the table says that it does: trains, is saved, and comes back the same.

`PEFTKIT_RECORD=1 pytest -n0 -m "slow or not slow" tests/adapter/test_methods.py` writes the table,
`peftkit/adapter/methods.json`, anew.
"""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import LlamaConfig, LlamaForCausalLM

from peftkit import machine
from peftkit.adapter import peft_config as checks
from peftkit.adapter.attach import attach, count_parameters
from peftkit.adapter.convert import TOLERANCE, to_lora
from peftkit.adapter.methods import BASES, METHODS, find_method
from peftkit.adapter.starts import find_start
from peftkit.config import AdapterConfig, ModelConfig
from peftkit.errors import ConfigError

from .exercise import BATCH, CASES, STEPS, Bases, exercise, logits, settings, train

TABLE = Path(checks.__file__).with_name("methods.json")
RECORD = os.environ.get("PEFTKIT_RECORD") == "1"
NEEDS_GPU = {("lora loftq", "nf4")}
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
# These start elsewhere than the base: at random, or with a prompt in front.
STARTS_ELSEWHERE = {"c3a", "cartridge", "fourierft", "lora false", "p_tuning", "prefix_tuning", "prompt_tuning"}
STARTS_NEAR = {"unilora": 1e-3, "vblora": 2e-2}
# Shadow's second projections start at zero and hold back the gradient of the first.
STANDS_STILL = {"shadow": 0.7}
# PEFT computes these without an error, on codes in place of weights; nothing that can be seen from outside is wrong.
SILENT = {("peanut", "int8"), ("shira", "int8")}


@pytest.fixture(scope="module")
def bases(tiny_model):
    return Bases(tiny_model)


@pytest.fixture(scope="module")
def table():
    """What was recorded; with the switch, what is seen now is written over it."""
    known = json.loads(TABLE.read_text(encoding="utf-8"))
    yield known
    if RECORD:
        known["methods"] = {case: known["methods"][case] for case in CASES}
        known["versions"] = {
            name: machine.versions()[name] for name in ("torch", "transformers", "peft", "bitsandbytes")
        }
        TABLE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def refusal(case, quantization):
    """The reason that the facts give for a case, or None."""
    given = CASES[case]
    if given.get("use_dora") and quantization == "int8":
        return "adapter.use_dora=true does not work on int8 weights"
    start = find_start(given.get("init_lora_weights", "true"))
    return find_method(given.get("method", "lora")).refusal(quantization) or start.refusal(quantization)


def test_the_table_holds_every_method_of_peft(table):
    assert table["methods"].keys() == CASES.keys()
    assert {method.name for method in METHODS} == {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


@pytest.mark.parametrize("quantization", BASES)
@pytest.mark.parametrize("case", CASES)
def test_each_method_does_what_the_table_says(bases, table, tmp_path, case, quantization):
    reason = refusal(case, quantization)
    if reason is None and (case, quantization) in NEEDS_GPU and not torch.cuda.is_available():
        reason = "needs a CUDA GPU"
    if reason is not None:
        with pytest.raises(ConfigError, match=re.escape(reason)):
            exercise(bases, case, quantization, tmp_path)
        record = {"refused": reason}
    else:
        seen = exercise(bases, case, quantization, tmp_path)
        assert seen.base_kept
        assert seen.dtypes == {torch.float32}
        assert seen.moved >= STANDS_STILL.get(case, 1)
        assert seen.effect > 1e-3
        assert seen.start < STARTS_NEAR.get(case, 1e-6) or case in STARTS_ELSEWHERE
        assert seen.reload_error < 1e-6
        record = {"parameters": seen.parameters, "bytes": seen.bytes}
        if (case, quantization) in NEEDS_GPU:
            return  # the table says what is so without one
    if RECORD:
        table["methods"].setdefault(case, {})[quantization] = record
    assert table["methods"][case][quantization] == record


@pytest.mark.parametrize(
    ("case", "quantization"),
    [
        (case, kind)
        for case in CASES
        for kind in ("nf4", "int8")
        if refusal(case, kind) and not refusal(case, "none") and (case, kind) not in SILENT
    ],
)
def test_what_is_refused_would_indeed_go_wrong(bases, tmp_path, monkeypatch, case, quantization):
    """If PEFT mends it, this fails, and the refusal can go."""
    monkeypatch.setattr("peftkit.adapter.attach.require_fitting", lambda *given: None)
    try:
        seen = exercise(bases, case, quantization, tmp_path)
    except (ConfigError, ValueError, TypeError, RuntimeError, AttributeError):
        return
    starts_as_base = seen.start < 1e-3
    assert not (starts_as_base and seen.effect > 1e-3)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    "case", ["adalora", "ia3", "ln_tuning", "lora olora", "lora eva", "prefix_tuning", "road", "vera"]
)
def test_a_base_in_bfloat16_is_answered_in_bfloat16(bases, tmp_path, case, quantization):
    seen = exercise(bases, case, quantization, tmp_path, dtype="bfloat16")
    assert seen.dtypes == {torch.float32}
    assert seen.base_kept
    assert seen.reload_error < 0.02  # bfloat16 sums of A B - A0 B0 and of the saved product round apart


@pytest.mark.parametrize(
    ("name", "quantization"), [(method.name, kind) for method in METHODS for kind in method.converts]
)
def test_what_converts_becomes_lora(bases, name, quantization):
    targets = ("k_proj", "v_proj")  # of 32 rows: a LoRA of rank 32 can be any update of theirs
    config = settings(name, save_as_lora=32, target_modules=targets)
    model = attach(bases.get(quantization), config, base=bases.config(quantization), seed=0, steps=STEPS)
    train(model)
    before = logits(model)
    converted = to_lora(model, 32, BATCH)
    assert converted.model.peft_config["default"].peft_type.value == "LORA"
    assert converted.model.peft_config["default"].base_model_name_or_path == str(bases.folder)
    assert converted.logit_error < 1e-3
    assert converted.faithful
    # int8 layers round what they read to 127 steps, and a last bit before that can tip a value over to the next one.
    assert torch.allclose(logits(converted.model), before, atol=2e-3 if quantization == "int8" else 1e-4)
    with converted.model.disable_adapter():
        assert torch.equal(logits(converted.model), logits(bases.get(quantization)))


def test_a_lora_of_too_low_a_rank_is_not_called_faithful(bases):
    model = attach(bases.get("none"), settings("randlora"), base=bases.config("none"), seed=0)
    train(model)
    converted = to_lora(model, 1, BATCH)
    assert converted.logit_error > TOLERANCE
    assert not converted.faithful


def test_a_rank_that_no_layer_has_is_refused(bases):
    model = attach(bases.get("none"), settings("lokr"), base=bases.config("none"), seed=0)
    train(model)
    with pytest.raises(ConfigError, match=r"adapter\.save_as_lora=500"):
        to_lora(model, 500, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_each_method_trains_the_share_that_the_table_says(table, case):
    share = relative_parameters(case)
    if RECORD:
        table["methods"].setdefault(case, {})["relative_parameters"] = share
    assert table["methods"][case]["relative_parameters"] == share


def relative_parameters(case):
    """Trained parameters of a method at its usual values, over those of LoRA with r=16, on SmolLM2-135M.

    Counted on one and on two of its 30 layers: what a method trains is a part for each layer and a part for all.
    """
    if refusal(case, "none"):
        return None

    def count(given, extra):
        sizes = []
        for layers in (1, 2):
            model = LlamaForCausalLM(LlamaConfig(**SMOLLM2, num_hidden_layers=layers))
            config = AdapterConfig(**given, extra=extra)
            adapted = attach(model, config, base=ModelConfig(quantization="none"), seed=0, steps=100, batches=[BATCH])
            sizes.append(count_parameters(adapted)[0])
        return sizes[0] + 29 * (sizes[1] - sizes[0])

    extra = {"c3a": {"block_size": 64}, "vblora": {"vector_length": 64}}
    given = dict(CASES[case])
    own = extra.get(case) or (settings(case).extra if case == "trainable_tokens" else {})
    return float(f"{count(given, own) / count({}, {}):.3g}")
