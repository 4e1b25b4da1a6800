"""An adapter is only opened on the base, tokenizer and template that its passport names."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
from safetensors.torch import load_file, save_file

import peftkit.adapter.passport
from peftkit.adapter.attach import WEIGHTS
from peftkit.adapter.passport import PASSPORT, file_hash, passport_schema, read_passport, write_passport
from peftkit.adapter.trained import open_adapter
from peftkit.errors import AdapterError
from peftkit.pipeline import run as whole_run

from .. import stages  # noqa: F401 - one thread for tiny products


@pytest.fixture(scope="module")
def finished(tiny_model, reviews, tmp_path_factory):
    """Folder of a finished run, and the folder of its base model."""
    base = tmp_path_factory.mktemp("base") / "tiny"
    shutil.copytree(tiny_model, base)
    words = [
        f"model.path={base}",
        f"data.path={reviews}",
        "train.max_steps=3",
        "train.learning_rate=1e-2",
        "evaluate.max_rows=6",
        "evaluate.bootstrap_samples=20",
    ]
    return whole_run("sentiment", words=words, out=tmp_path_factory.mktemp("runs") / "one").folder, base


@pytest.fixture
def adapter(finished, tmp_path):
    """A copy of the adapter whose passport names a copy of the base model."""
    folder, base = tmp_path / "adapter", tmp_path / "base"
    shutil.copytree(finished[0] / "adapter", folder)
    shutil.copytree(base_of(finished), base)
    edit(folder, lambda passport: passport["config"]["model"].update(path=str(base)))
    return folder


def base_of(finished):
    return finished[1]


def edit(folder, change):
    passport = json.loads((folder / PASSPORT).read_text())
    change(passport)
    (folder / PASSPORT).write_text(json.dumps(passport))


def test_a_passport_survives_a_round_trip(finished, tmp_path):
    passport = read_passport(finished[0] / "adapter")
    shutil.copytree(finished[0] / "adapter", tmp_path / "copy")
    write_passport(tmp_path / "copy", passport)
    assert read_passport(tmp_path / "copy") == passport
    assert (tmp_path / "copy" / PASSPORT).read_bytes() == (finished[0] / "adapter" / PASSPORT).read_bytes()


def test_a_passport_says_what_the_run_did(finished):
    passport = read_passport(finished[0] / "adapter")
    summary = json.loads((finished[0] / "summary.json").read_text())
    data = json.loads((finished[0] / "data.json").read_text())
    assert passport.base.path == str(finished[1])
    assert passport.base.quantization == "nf4"
    assert passport.base.architecture == "LlamaForCausalLM"
    assert passport.data["rows"] == {name: split["rows"] for name, split in data["splits"].items()}
    for part in ("before", "after", "difference", "metrics"):
        assert getattr(passport, part) == summary[part]
    assert passport.data["source"]["sources"] == data["source"]["sources"]
    assert passport.config.task.labels == ("negative", "positive")
    assert passport.files == {name: file_hash(finished[0] / "adapter" / name) for name in passport.files}
    assert WEIGHTS in passport.files
    assert len(passport.files) == 2
    assert passport.tokenizer.template.startswith("{% for message in messages %}")


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_predictions_are_those_of_the_run(finished, inside):
    trained = open_adapter(finished[0] / inside)
    rows = [json.loads(line) for line in (finished[0] / "predictions.jsonl").read_text().splitlines()]
    answers = trained.predict([row["columns"]["text"] for row in rows])
    assert len(rows) == 6
    for row, one in zip(rows, answers, strict=True):
        assert (one.text, one.label) == (row["after"]["answer"], row["after"]["label"])
        assert dict(one.scores) == pytest.approx(row["after"]["scores"], abs=2e-4)
        assert dict(one.scores) != pytest.approx(row["before"]["scores"], abs=2e-2)


def test_a_changed_byte_of_the_weights_is_refused(adapter):
    content = bytearray((adapter / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (adapter / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError, match=f"{WEIGHTS}' was changed"):
        open_adapter(adapter)


def test_a_missing_file_is_refused(adapter):
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"lacks adapter_config\.json"):
        open_adapter(adapter)


def test_a_changed_template_is_refused(adapter):
    edit(adapter, lambda passport: passport["tokenizer"].update(template="{{ messages[-1]['content'] }}"))
    with pytest.raises(AdapterError, match="chat template in the passport"):
        open_adapter(adapter)


def test_the_template_of_the_passport_is_used_whatever_the_base_has(adapter):
    base = adapter.parent / "base"
    (base / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    opened = open_adapter(adapter)
    assert opened.encoder.template == opened.passport.tokenizer.template
    assert "<|im_start|>assistant" in opened.encoder.tokenizer.decode(opened.encoder.prompt_ids({"text": "a"}))


def test_another_tokenizer_is_refused(adapter):
    path = adapter.parent / "base" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(AdapterError, match="another tokenizer"):
        open_adapter(adapter)


def test_other_base_weights_of_the_same_shape_are_refused(adapter):
    path = adapter.parent / "base" / "model.safetensors"
    state = load_file(path)
    state["model.norm.weight"][3] += 0.001
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="trained on other weights"):
        open_adapter(adapter)


def test_what_differs_in_the_base_is_named(adapter):
    path = adapter.parent / "base" / "model.safetensors"
    state = load_file(path)
    state["model.norm.weight"][3] += 0.001
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=rf"1 of {len(state)} tensors differ, 'model\.norm\.weight' first"):
        open_adapter(adapter)
    edit(adapter, lambda passport: passport["base"]["tensors"].pop("model.norm.weight"))
    with pytest.raises(AdapterError, match=r"it has besides 'model\.norm\.weight'"):
        open_adapter(adapter)
    edit(adapter, lambda passport: passport["base"]["tensors"].update({"model.norm.weight": "0" * 16, "z": "0" * 16}))
    with pytest.raises(AdapterError, match="it lacks 'z'"):
        open_adapter(adapter)


def test_a_passport_of_the_first_version_is_read(adapter):
    def older(passport):
        passport["schema_version"] = 1
        passport.pop("adopted")
        passport["base"].pop("tensors")
        passport["tokenizer"].pop("added_tokens")

    edit(adapter, older)
    assert open_adapter(adapter).predict(["a warm film"])[0].text


def test_a_passport_of_a_later_version_says_so(adapter):
    edit(adapter, lambda passport: passport.update(schema_version=3, something="new"))
    with pytest.raises(AdapterError, match="written by a newer peftkit"):
        open_adapter(adapter)


def test_the_published_schema_is_that_of_the_passport(finished):
    file = Path(peftkit.adapter.passport.__file__).with_name("passport.schema.json")
    schema = passport_schema()
    if os.environ.get("PEFTKIT_RECORD"):
        file.write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    assert json.loads(file.read_text(encoding="utf-8")) == schema
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    passport = json.loads((finished[0] / "adapter" / PASSPORT).read_text())
    validator.validate(passport)
    for key, value in (("schema_version", 3), ("files", None), ("more", 1)):
        assert not validator.is_valid({**passport, key: value})


def test_a_copy_of_the_base_elsewhere_is_accepted(adapter):
    assert open_adapter(adapter).predict(["a warm film"])[0].text


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\x00", b'{"schema_version": 2}', b'{"recipe": "sentiment"}', b"[" * 9999],
    ids=range(6),
)
def test_a_damaged_passport_is_refused(adapter, content):
    (adapter / PASSPORT).write_bytes(content)
    with pytest.raises(AdapterError, match=r"peftkit\.json' is damaged"):
        open_adapter(adapter)


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/hostname", "../base/config.json"], ids=["parent", "absolute", "sibling"]
)
def test_a_passport_cannot_vouch_for_files_outside_its_folder(adapter, name):
    edit(adapter, lambda passport: passport["files"].update({name: "0" * 64}))
    with pytest.raises(AdapterError):
        open_adapter(adapter)


def test_a_passport_that_names_no_files_is_refused(adapter):
    edit(adapter, lambda passport: passport.update(files={}))
    with pytest.raises(AdapterError, match=WEIGHTS):
        open_adapter(adapter)


def test_a_folder_without_a_passport_is_refused(tmp_path, finished):
    with pytest.raises(AdapterError, match="there is no adapter folder"):
        open_adapter(tmp_path / "absent")
    with pytest.raises(AdapterError, match="has no passport"):
        open_adapter(tmp_path)
    with pytest.raises(AdapterError, match="did you mean"):
        read_passport(finished[0])
