"""Merging what a run made: onto which weights, with which proof, and what the folder then holds."""

import json
import re
import shutil

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

from peftkit import PeftkitError, machine, pipeline
from peftkit.adapter.passport import read_passport
from peftkit.errors import AdapterError, ConfigError, ModelError, OutputError
from peftkit.judge import predict
from peftkit.merge import merge as merging
from peftkit.merge.given import Weighted
from peftkit.merge.inputs import open_inputs
from peftkit.merge.merge import merge, verify
from peftkit.merge.plan import make_plan
from peftkit.merge.quantized import quantize_merged, require_kept
from peftkit.merge.shrink import shrink
from peftkit.model.fingerprint import fingerprint
from peftkit.model.load import Source

from ..models import tiny
from .adapters import changes, make_adapter, relative
from .bases import tensors

torch.set_num_threads(1)
machine.quiet_libraries()


def train(folder, tiny_model, reviews, *words):
    settings = [
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "data.test_fraction=0.2",
        "data.validation_fraction=0.2",
        "train.max_steps=4",
        "train.learning_rate=0.01",
        "train.max_length=256",
        "evaluate.max_rows=12",
        "evaluate.bootstrap_samples=50",
        *words,
    ]
    return pipeline.run("sentiment", words=settings, out=folder).folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, tiny_model, reviews):
    made = {}

    def run(*words):
        if words not in made:
            made[words] = train(tmp_path_factory.mktemp("runs") / "run", tiny_model, reviews, *words)
        return made[words]

    return run


def test_both_targets_are_judged_and_the_better_one_is_taken(runs, tmp_path):
    run = runs("model.quantization=nf4")
    record = merge([(run, 1.0)], tmp_path / "out", rows=20)
    choice = record["choice"]
    metric = choice["metric"]
    gain = choice["original"][metric]["value"] - choice["trained"][metric]["value"]
    if not gain:
        gain = choice["loss"]["trained"] - choice["loss"]["original"]
    assert choice["chosen"] == record["onto"] == ("original" if gain > 0 else "trained")
    assert choice["rows"] == 20
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out"]
    assert json.loads((tmp_path / "out" / "merge.json").read_text()) == record
    assert record["quantization"] == "nf4"


@pytest.mark.parametrize("names", [("small",), ("plain", "small")])
def test_adapters_of_integers_without_a_passport_are_merged_and_proved(tiny_model, tmp_path, names):
    made = {name: make_adapter(tiny_model, tmp_path / name, number) for number, name in enumerate(("plain", "large"))}
    shrink(made["large"], tmp_path / "small", dtype="int8")
    record = merge([Weighted(tmp_path / name) for name in names], tmp_path / "out", rows=8)
    expected = sum(changes(made[{"small": "large"}.get(name, name)])["model.layers.0.mlp.up_proj"] for name in names)
    place = "model.layers.0.mlp.up_proj.weight"
    assert relative(tensors(tmp_path / "out")[place] - tensors(tiny_model)[place], expected) < 0.012  # of 8 bits
    assert record["proof"]["model"]["to_merged"]["kl"] < 1e-5 < record["proof"]["model"]["to_base"]["kl"]


@pytest.mark.parametrize("kind", ["nf4", "int8", "none"])
@pytest.mark.parametrize("onto", ["trained", "original"])
def test_the_proof_holds_for_each_target(kind, onto, runs, tmp_path):
    run = runs(f"model.quantization={kind}")
    if kind == "none" and onto == "trained":
        with pytest.raises(ConfigError, match="unquantized weights"):
            merge([(run, 1.0)], tmp_path / "out", onto=onto)
        return
    record = merge([(run, 1.0)], tmp_path / "out", onto=onto, rows=12)
    proof = record["proof"]
    assert proof["failures"] == []
    assert proof["files"]["realised"]["low"] > 0.98
    assert proof["files"]["off"] < 1
    assert proof["model"]["to_merged"]["kl"] < (0.005 if kind == "int8" else 1e-6)
    assert proof["model"]["to_base"]["kl"] > 1e-3
    assert ("to_trained" in proof["model"]) == (kind != "none")
    if kind == "nf4" and onto == "original":
        assert proof["model"]["to_trained"]["kl"] > 10 * proof["model"]["to_merged"]["kl"]
    assert proof["model"]["metrics"]["live"].keys() == proof["model"]["metrics"]["merged"].keys()
    again = verify(tmp_path / "out", [(run, 1.0)], rows=12)
    assert again == proof


def test_the_folder_works_alone_and_says_what_it_is(runs, tmp_path):
    run = runs("model.quantization=none")
    out = tmp_path / "out"
    record = merge([(run / "adapter", 1.0)], out, rows=4)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template
    assert model.config.tie_word_embeddings
    card = (out / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    assert "| result | passed |" in card
    assert str(tmp_path) not in card
    row = r"^\| Accuracy \| \d+\.\d% \(.* to .*\) \| .* \| [+-]\d+\.\d points \(.*\) \|$"
    assert re.search(row, card, re.MULTILINE)
    assert ModelCard(card).data.to_dict() == {
        "library_name": "transformers",
        "license": "unknown",
        "tags": ["peftkit", "merge"],
    }
    assert "Licence of the base: not known: " in card
    passport = read_passport(run / "adapter")
    assert record["base"]["fingerprint"] == passport.base.fingerprint
    assert record["base"]["fingerprint"] != fingerprint(Source(str(out)))
    assert record["adapters"][0]["sha256"] == passport.files


def test_two_merges_give_the_same_bytes(runs, tmp_path):
    run = runs("model.quantization=nf4")
    for name in ("one", "two"):
        merge([(run, 1.0)], tmp_path / name, onto="trained", rows=4)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_another_base_of_the_same_shape_is_refused_and_force_is_noted(runs, tmp_path, tiny_model):
    run = runs("model.quantization=nf4")
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    file = other / "model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1  # the last bit of one value
    file.write_bytes(whole)
    with pytest.raises(AdapterError, match=r"trained on other weights.*--force"):
        merge([(run, 1.0)], tmp_path / "out", base=str(other))
    assert not list(tmp_path.glob("*out*"))
    record = merge([(run, 1.0)], tmp_path / "out", base=str(other), force=True, onto="trained", rows=4)
    assert "trained on other weights" in record["forced"][0]
    assert "trained on other weights" in (tmp_path / "out" / "README.md").read_text()


def test_nothing_is_written_over(runs, tmp_path):
    run = runs("model.quantization=none")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="is not written over; give another place"):
            merge([(run, 1.0)], out, proof=False, force=force)
    assert (out / "mine.txt").read_text() == "mine"
    again = tmp_path / "again"
    merge([(run, 1.0)], again, proof=False)
    with pytest.raises(OutputError, match="--force"):
        merge([(run, 1.0)], again, proof=False)
    (again / "merge.json").write_text('{"old": true}')
    merge([(run, 1.0)], again, proof=False, force=True)
    assert "old" not in json.loads((again / "merge.json").read_text())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again", "out"]


def test_a_gguf_base_is_refused_with_the_way_out(runs, tmp_path, monkeypatch):
    run = runs("model.quantization=none")
    monkeypatch.setattr("peftkit.merge.inputs.find_model", lambda *_: Source("/cache/models/mine"))
    with pytest.raises(ModelError, match=r"GGUF.*--base /cache/models/mine"):
        merge([(run, 1.0)], tmp_path / "out", base="mine.gguf")


@pytest.mark.parametrize("name", ["llama", "bert", "modernbert"])
def test_a_head_is_merged_with_its_labels(name, tmp_path, reviews):
    run = train(tmp_path / "run", tiny(name), reviews, "task.answer=head", "model.quantization=none")
    record = merge([(run, 1.0)], tmp_path / "out", rows=12)
    assert record["proof"]["failures"] == []
    assert record["proof"]["model"]["to_merged"]["kl"] < 1e-7
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "it was a lovely film"
    from peftkit.adapter.trained import open_adapter

    ids = open_adapter(run).encoder.prompt_ids({"text": text})
    with torch.inference_mode():
        label = model.config.id2label[int(model(torch.tensor([ids])).logits.argmax())]
    assert label == predict(run, [text])[0]["label"]
    assert tokenizer is not None


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_is_merged(name, tmp_path, reviews):
    run = train(tmp_path / "run", tiny(name), reviews, "model.quantization=none")
    record = merge([(run, 1.0)], tmp_path / "out", rows=6)
    assert record["proof"]["failures"] == []
    assert record["proof"]["model"]["to_base"]["kl"] > 100 * record["proof"]["model"]["to_merged"]["kl"]


@pytest.mark.parametrize("method", ["ia3", "miss", "oft", "ln_tuning", "vera", "loha"])
def test_other_methods_are_merged_by_peft_with_the_same_proof(method, runs, tmp_path):
    words = ["train.learning_rate=0.1"] if method in ("vera", "ia3", "ln_tuning") else []
    run = runs("model.quantization=none", f"adapter.method={method}", *words)
    record = merge([(run, 1.0)], tmp_path / "out", rows=6)
    assert record["proof"]["failures"] == []
    assert record["changed"]
    assert record["proof"]["model"]["to_base"]["kl"] > 10 * record["proof"]["model"]["to_merged"]["kl"]


def test_another_method_on_quantized_weights_is_merged_onto_what_training_saw(runs, tmp_path):
    run = runs("model.quantization=nf4", "adapter.method=miss")
    record = merge([(run, 1.0)], tmp_path / "out", onto="trained", rows=6)
    assert record["proof"]["model"]["to_trained"]["kl"] < 1e-6


def test_prompts_change_no_weights_and_are_refused(runs, tmp_path):
    run = runs("model.quantization=none", "adapter.method=prompt_tuning")
    with pytest.raises(AdapterError, match="changes no weights"):
        merge([(run, 1.0)], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_peft_needs_more_memory_for_than_there_is_is_refused(runs, tmp_path, monkeypatch):
    run = runs("model.quantization=none", "adapter.method=ia3", "train.learning_rate=0.1")
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    with pytest.raises(ModelError, match=r"needs about .* of memory"):
        merge([(run, 1.0)], tmp_path / "out")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_merged_weights_are_quantized_once(kind, runs, tmp_path):
    run = runs("model.quantization=nf4")
    out = tmp_path / "out"
    record = merge([(run, 1.0)], out, quantize=kind, rows=12)
    assert record["onto"] == "original"
    assert record["quantized"]["kind"] == kind
    assert all(0.9 < share < 1.1 for share in record["quantized"]["kept"].values())
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[kind]
    proof = record["proof"]
    assert proof["files"] is None
    assert proof["model"]["to_merged"]["kl"] < proof["model"]["to_base"]["kl"]
    assert verify(out, [(run, 1.0)], rows=12) == proof
    assert f"quantized to {kind}" in (out / "README.md").read_text()


def test_quantizing_what_lies_on_the_steps_already_is_refused(runs, tmp_path):
    run = runs("model.quantization=nf4")
    with pytest.raises(ConfigError, match="take --onto original"):
        merge([(run, 1.0)], tmp_path / "out", onto="trained", quantize="nf4")
    with pytest.raises(ConfigError, match="not one of nf4, fp4, int8"):
        merge([(run, 1.0)], tmp_path / "out", quantize="fp8")


def test_a_change_that_quantizing_takes_away_is_refused(runs, tmp_path):
    run = runs("model.quantization=nf4")
    merge([(run, 1.0)], tmp_path / "steps", onto="trained", proof=False)
    inputs = open_inputs([(run, 1e-4)], str(tmp_path / "steps"), force=True)
    plan = make_plan(inputs, onto_trained=False)
    shutil.copytree(tmp_path / "steps", tmp_path / "copy")
    kept = quantize_merged(inputs, plan, tmp_path / "copy", "nf4")
    with pytest.raises(AdapterError, match="would take the adapter away"):
        require_kept(kept, "nf4")


def test_without_data_it_is_judged_on_other_texts(runs, tmp_path, monkeypatch):
    run = runs("model.quantization=none")

    def gone(*_):
        raise PeftkitError("the file is gone")

    monkeypatch.setattr("peftkit.data.read.read_data", gone)
    record = merge([(run, 1.0)], tmp_path / "out")
    assert "documentation" in record["proof"]["model"]["rows"]["what"]
    assert "metrics" not in record["proof"]["model"]
    assert record["proof"]["failures"] == []


def test_a_failed_proof_leaves_nothing(runs, tmp_path, monkeypatch):
    run = runs("model.quantization=none")
    monkeypatch.setattr(
        merging,
        "prove_files",
        lambda *_: {"failures": ["'a' is not there"], "realised": None, "copied": 0, "changed": 0},
    )
    with pytest.raises(AdapterError, match="'a' is not there"):
        merge([(run, 1.0)], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_changed_are_the_base_s(runs, tmp_path, tiny_model):
    run = runs("model.quantization=none")
    record = merge([(run, 1.0)], tmp_path / "out", proof=False)
    before, after = tensors(tiny_model), tensors(tmp_path / "out")
    assert record["changed"].keys() == {name for name in before if not torch.equal(before[name], after[name])}
    assert record["proof"] is None
