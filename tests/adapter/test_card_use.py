"""The lines of code in a card do what `peftkit predict` does."""

import contextlib
import io
import json
import re
import shlex
import shutil
from dataclasses import replace

import pytest

from peftkit.adapter.attach import PEFT_CONFIG
from peftkit.adapter.card import render_card
from peftkit.adapter.card_use import FOLDER, uses
from peftkit.adapter.passport import PASSPORT, read_passport
from peftkit.export.readers import read_facts
from peftkit.judge import predict
from peftkit.pipeline import run as whole_run

from .. import stages  # noqa: F401 - one thread for tiny products
from ..models import tiny
from .hub_rules import read_head

TEXT = "a warm film"


def trained(model, reviews, folder, recipe="sentiment", *words):
    few = ["train.max_steps=2", "train.learning_rate=1e-2", "evaluate.max_rows=4", "evaluate.bootstrap_samples=5"]
    exact = ["model.quantization=none", "model.dtype=float32"]
    paths = [f"model.path={model}", f"data.path={reviews}"]
    return whole_run(recipe, words=[*paths, *few, *exact, *words], out=folder).adapter


def code_of(adapter, model, title, *, text=TEXT):
    card = render_card(adapter, read_passport(adapter))
    found = re.search(rf"^### {title}\n\n```\w+\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[1]
    for word, real in ((FOLDER, str(adapter)), ("path/of/the/base/model", str(model)), ("your text", text)):
        assert word in found or word == "path/of/the/base/model"
        found = found.replace(word, real)
    return found


def printed(code):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})  # what a reader of the card would do
    return said.getvalue().strip()


@pytest.fixture(scope="module")
def causal(tiny_model, reviews, tmp_path_factory):
    """An adapter whose base model comes with a licence."""
    folder = tmp_path_factory.mktemp("causal")
    base = shutil.copytree(tiny_model, folder / "base")
    (base / "README.md").write_text("---\nlicense: gemma\n---\n")
    return trained(base, reviews, folder / "run")


def test_the_licence_of_the_base_goes_into_passport_and_card(causal, tmp_path):
    passport = read_passport(causal)
    assert (passport.base.licence.id, passport.base.licence.found) == ("gemma", "README.md of the base model")
    assert read_head((causal / "README.md").read_text())["license"] == "gemma"
    copy = shutil.copytree(causal, tmp_path / "older")
    older = json.loads((copy / PASSPORT).read_text())
    del older["base"]["licence"]  # as it was written before there was such a field
    (copy / PASSPORT).write_text(json.dumps(older))
    assert read_head(render_card(copy, read_passport(copy)))["license"] == "unknown"


def test_peft_answers_as_peftkit_does(causal, tiny_model):
    expected = predict(causal, [TEXT])[0]["answer"]
    code = code_of(causal, tiny_model, "PEFT")
    assert printed(code) == expected.strip()
    assert printed(re.sub(r"^answer\.model = .*$", "", code, flags=re.MULTILINE)) != expected.strip()


def test_the_lines_of_peftkit_are_a_command(causal, tiny_model, monkeypatch, capsys):
    from peftkit import cli

    words = shlex.split(code_of(causal, tiny_model, "peftkit"))
    assert words[:2] == ["peftkit", "predict"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert capsys.readouterr().out.strip() == predict(causal, [TEXT])[0]["answer"].strip()


def test_a_head_gives_the_same_scores(reviews, tmp_path):
    model = tiny("bert")
    adapter = trained(model, reviews, tmp_path / "run")
    logits = [float(one) for one in re.findall(r"-?\d+\.\d+", printed(code_of(adapter, model, "PEFT")))]
    scores = predict(adapter, [TEXT])[0]["scores"]
    first, second = scores.values()  # the log-softmax of the logits
    assert logits[1] - logits[0] == pytest.approx(second - first, abs=2e-3)


def test_an_encoder_decoder_writes_the_same(reviews, tmp_path):
    model = tiny("t5")
    adapter = trained(model, reviews, tmp_path / "run")
    assert printed(code_of(adapter, model, "PEFT")) == predict(adapter, [TEXT])[0]["answer"].strip()


def test_on_the_hub_the_lines_name_the_repository(causal):
    text = render_card(causal, read_passport(causal), "owner/name")
    assert FOLDER not in text
    assert "peftkit pull hf:owner/name adapter\n" in text
    assert 'PeftModel.from_pretrained(answer.model, "owner/name")' in text
    assert 'LoRARequest("adapter", 1, "owner/name")' in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "max_lora_rank=16"),
        ({"ranks": {"q_proj": 4, "v_proj": 33}}, "max_lora_rank=64"),
        ({"ranks": {"q_proj": 600}}, "takes ranks up to 512, and the adapter has 600"),
        ({"settings": {"use_dora": True}}, "the adapter is DoRA"),
        ({"settings": {"bias": "all"}}, "was trained with the base's biases"),
        ({"settings": {"peft_type": "LOHA"}}, "is of the kind LOHA, not LoRA"),
        ({"whole": ("model.norm.weight",)}, "takes no 'model.norm.weight' that is saved as a whole"),
    ],
)
def test_vllm_is_told_the_rank_or_why_not(causal, change, said):
    facts = read_facts(causal)
    settings = {**facts.settings, **change.get("settings", {})}
    use = uses(read_passport(causal), replace(facts, **{**change, "settings": settings}))[2]
    assert said in "\n".join([*use.lines, use.note])
    assert bool(use.lines) == said.startswith("max_lora_rank")
    assert use.command == ("" if use.lines else "peftkit merge ADAPTER merged")


def test_int8_weights_are_for_peftkit_alone(causal, tmp_path):
    copy = shutil.copytree(causal, tmp_path / "copy")
    settings = (copy / PEFT_CONFIG).read_text().replace('"LORA"', '"PEFTKIT_LORA_INT8"')
    (copy / PEFT_CONFIG).write_text(settings)
    text = render_card(copy, read_passport(causal))
    assert "PEFT does not read its 8-bit weights" in text
    assert "from peft import" not in text
