"""Several adapters and their base asked the same texts: what each answers, what they share, and how it is shown."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from peftkit import pipeline
from peftkit.adapter.trained import check_adapter, open_adapters
from peftkit.cli import main
from peftkit.errors import AdapterError, ConfigError
from peftkit.judge import predict
from peftkit.side_by_side import compare_on_texts

from .models import tiny
from .serve.adapters import adapter
from .serve.lively import lively
from .serve.reference import chat_ids, generated, text_of

pytestmark = pytest.mark.xdist_group("side_by_side")

TEXTS = ["a lovely film", "3 it was a dull book by no. 77"]
LONGER = "evaluate.max_new_tokens=20"


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Path:
    return lively(tiny_model)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "mood": adapter(base, folder / "mood", "sentiment", LONGER, seed=1),
        "mood2": adapter(base, folder / "mood2", "sentiment", LONGER, seed=7, r=8, target_modules=["o_proj", "q_proj"]),
        "talk": adapter(base, folder / "talk", "instruct", "task.system=Be brief.", LONGER, seed=3),
    }


@pytest.fixture
def command(monkeypatch, capfd):
    def run(*words, columns=None):
        monkeypatch.setattr(sys, "argv", ["peftkit", *map(str, words)])
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
            monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal of this width
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return left.value.code or 0, re.sub(r"\x1b\[[0-9;]*m", "", out), err

    return run


def test_each_answers_as_it_does_alone_and_the_base_once(adapters):
    two = [adapters["mood"], adapters["mood2"]]
    compared = compare_on_texts(two, TEXTS)
    assert [row["text"] for row in compared] == TEXTS
    for row in compared:
        assert list(row["answers"]) == ["base", "mood", "mood2"]
        assert len({one["answer"] for one in row["answers"].values()}) == 3
    for name in ("mood", "mood2"):
        alone = predict(adapters[name], TEXTS)
        assert [{"text": row["text"], **row["answers"][name]} for row in compared] == alone


def test_the_base_is_asked_in_each_wording(base, adapters):
    compared = compare_on_texts([adapters["mood"], adapters["talk"]], TEXTS)
    for row in compared:
        assert list(row["answers"]) == ["base, asked as mood", "base, asked as talk", "mood", "talk"]
        asked = chat_ids(base, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["text"]}])
        for name, folder in (("base, asked as talk", None), ("talk", adapters["talk"])):
            text = text_of(base, generated(base, folder, asked, 20))
            assert row["answers"][name]["answer"] == text.strip()
        assert set(row["answers"]["mood"]["scores"]) == {"negative", "positive"}
        assert "scores" not in row["answers"]["talk"]


def test_they_share_one_base_in_memory(adapters):
    one, two, three = open_adapters(list(adapters.values()))
    assert one.model is two.model is three.model
    frozen = [value for name, value in one.model.named_parameters() if "lora_" not in name]
    from transformers import AutoModelForCausalLM

    alone = AutoModelForCausalLM.from_pretrained(one.source.path)
    assert sum(value.numel() for value in frozen) == sum(value.numel() for value in alone.parameters())
    assert not any(value.requires_grad for value in one.model.parameters())


def test_it_is_shown_as_a_table_where_it_fits_and_stacked_where_not(command, adapters):
    words = ["predict", "--adapter", adapters["mood"], "--adapter", adapters["mood2"], "--compare", *TEXTS]
    expected = compare_on_texts([adapters["mood"], adapters["mood2"]], TEXTS)
    code, wide, _ = command(*words, columns=150)
    head, *rows = wide.splitlines()
    assert code == 0
    assert head.split() == ["text", "base", "mood", "mood2"]
    assert len(rows) == len(TEXTS)
    for line, row in zip(rows, expected, strict=True):
        assert line.startswith(row["text"])
        for one in row["answers"].values():
            assert one["answer"] in line
    _, narrow, _ = command(*words, columns=60)
    stacked = [
        line
        for row in expected
        for line in (row["text"], *(f"  {name}: {one['answer']}" for name, one in row["answers"].items()))
    ]
    assert narrow.splitlines() == stacked


def test_as_json_and_without_the_base(command, adapters):
    words = ["predict", "--adapter", adapters["mood"], "--adapter", adapters["talk"], *TEXTS, "--json"]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert json.loads(out) == compare_on_texts([adapters["mood"], adapters["talk"]], TEXTS, base=False)
    code, out, _ = command("predict", adapters["mood"], "--compare", TEXTS[0], "--json")
    assert list(json.loads(out)[0]["answers"]) == ["base", "mood"]
    code, out, _ = command("predict", "--adapter", adapters["mood"], *TEXTS, "--json")
    assert json.loads(out) == predict(adapters["mood"], TEXTS)


@pytest.fixture(scope="module")
def other(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of another base."""
    return adapter(tiny_model, tmp_path_factory.mktemp("other") / "other", "sentiment")


def test_adapters_of_two_bases_are_refused(adapters, other):
    with pytest.raises(AdapterError, match="cannot share one base model: the fingerprint of its weights is"):
        open_adapters([adapters["mood"], other])


def test_adapters_of_one_base_that_is_held_in_two_ways_are_refused(base, adapters, tmp_path):
    nf4 = adapter(base, tmp_path / "nf4", "sentiment", "model.quantization=nf4")
    with pytest.raises(AdapterError, match=r"model\.quantization is none for the first and nf4 for the second"):
        open_adapters([adapters["mood"], nf4])


def test_adapters_of_two_methods_are_refused(base, small, adapters, tmp_path):
    words = [*small, f"model.path={base}", "adapter.method=ia3", "train.max_steps=1", "evaluate.max_rows=0"]
    run = pipeline.run("sentiment", words=[*words, "model.quantization=none"], out=tmp_path / "run").folder
    with pytest.raises(AdapterError, match="is of the method IA3 and the first one of LORA, which PEFT cannot hold"):
        open_adapters([adapters["mood"], run])


def test_a_damaged_second_adapter_is_refused_as_strictly_as_a_first_one(base, adapters, tmp_path):
    from safetensors.torch import load_file, save_file

    from peftkit.adapter.passport import file_hash

    copy = Path(shutil.copytree(adapters["mood2"], tmp_path / "copy"))
    state = load_file(copy / "adapter_model.safetensors")
    lost = sorted(state)[0]
    del state[lost]
    save_file(state, copy / "adapter_model.safetensors")
    passport = json.loads((copy / "peftkit.json").read_text())
    passport["files"]["adapter_model.safetensors"] = file_hash(copy / "adapter_model.safetensors")
    (copy / "peftkit.json").write_text(json.dumps(passport))
    with pytest.raises(AdapterError, match="does not fit: the adapter lacks 'model"):
        open_adapters([adapters["mood"], copy])


def test_two_of_one_name_are_refused(adapters, tmp_path):
    twin = shutil.copytree(adapters["mood"], tmp_path / "mood")
    with pytest.raises(ConfigError, match="would be called 'mood', as"):
        compare_on_texts([adapters["mood"], Path(twin)], TEXTS)


@pytest.mark.parametrize(("name", "recipe"), [("bert", "sentiment"), ("bert", "regression"), ("t5", "sentiment")])
def test_heads_and_encoder_decoders_stand_side_by_side_too(name, recipe, reviews, small, tmp_path):
    rows = [] if recipe == "sentiment" else [f"data.path={scored(reviews, tmp_path)}"]
    runs = []
    for seed in (1, 2):
        words = [*small, f"model.path={tiny(name)}", "model.quantization=none", "train.max_length=120", *rows]
        words += [f"train.seed={seed}", "train.learning_rate=0.05", "evaluate.max_rows=0"]
        runs.append(pipeline.run(recipe, words=words, out=tmp_path / f"run{seed}").folder)
    compared = compare_on_texts(runs, TEXTS)
    for one in runs:
        alone = predict(one, TEXTS)
        assert [{"text": row["text"], **row["answers"][one.name]} for row in compared] == alone
    first, second = (compared[0]["answers"][one.name] for one in runs)
    assert first != second
    family = check_adapter(runs[0]).family
    assert family == ("seq2seq" if name == "t5" else "head")


def scored(reviews: Path, folder: Path) -> Path:
    rows = [json.loads(line) for line in reviews.read_text().splitlines()]
    file = folder / "scored.jsonl"
    file.write_text("".join(json.dumps({"text": one["text"], "score": len(one["text"]) / 10}) + "\n" for one in rows))
    return file
