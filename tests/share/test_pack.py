"""A pack is the same everywhere, half as large, holds nothing private, and answers as the adapter did."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.passport import PASSPORT, file_hash, read_passport
from peftkit.errors import AdapterError, ConfigError, OutputError
from peftkit.judge import predict
from peftkit.merge.shrink import shrink
from peftkit.model import weight_files
from peftkit.share.archive import NAMES
from peftkit.share.pack import pack
from peftkit.share.rounding import MOST_KL
from peftkit.share.unpack import unpack
from peftkit.ui import UI

from ..merge.adapters import base, edit_settings, logits, logits_with, make_adapter, relative, settings_of


@pytest.fixture
def trained(runs, tmp_path):
    """A copy of an adapter that was trained, with its passport and card."""
    return shutil.copytree(runs[0] / "adapter", tmp_path / "trained")


@pytest.fixture
def plain(tiny_model, tmp_path):
    """An adapter without a passport, with an effect so small that rounding cannot be seen in its answers."""
    folder = make_adapter(tiny_model, tmp_path / "plain", target_modules="all-linear")
    state = {name: value * (0.03 if "lora_B" in name else 1) for name, value in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS)
    return folder


def test_a_pack_is_half_as_large_and_is_read_by_any_program(plain, tiny_model, tmp_path):
    report = pack(plain, tmp_path / "a.peft.zip")
    assert report["bytes"] <= 0.5 * (plain / WEIGHTS).stat().st_size
    assert 1e-4 < report["relative_change"] < 2**-8
    assert 0 <= report["kl"] < MOST_KL
    assert report["sha256"] == file_hash(tmp_path / "a.peft.zip")
    with zipfile.ZipFile(tmp_path / "a.peft.zip") as file:
        assert file.testzip() is None
        assert [one.filename for one in file.infolist()] == [PEFT_CONFIG, WEIGHTS]
        assert {one.external_attr >> 16 for one in file.infolist()} == {0o100644}
        assert {one.date_time for one in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert (tmp_path / "a.peft.zip").stat().st_mode & 0o777 == 0o644
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    assert {one.dtype for one in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.bfloat16}
    found = logits(PeftModel.from_pretrained(base(tiny_model), tmp_path / "out"))
    assert relative(found, logits_with(tiny_model, plain)) < 1e-3


def test_two_packs_are_equal_whatever_hashes_clock_and_place(plain, tmp_path):
    script = "import sys; from pathlib import Path; from peftkit.share.pack import pack; pack(*map(Path, sys.argv[1:]))"
    made = []
    for number, (seed, zone) in enumerate((("1", "UTC"), ("2", "Asia/Tokyo"))):
        folder = shutil.copytree(plain, tmp_path / f"place{number}" / "a")
        for file in folder.iterdir():
            os.utime(file, (10**9 * number, 10**9 * number))
            file.chmod(0o600 if number else 0o664)
        out = tmp_path / f"{number}.peft.zip"
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone}
        subprocess.run([sys.executable, "-c", script, folder, out], env=environment, check=True, umask=0o77 * number)
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_a_trained_adapter_comes_back_with_a_passport_that_fits(trained, tmp_path):
    report = pack(trained, tmp_path / "a.peft.zip")
    assert "rows of sentiment" in report["checked"]
    assert list(report["files"]) == [PEFT_CONFIG, PASSPORT, "README.md", WEIGHTS]
    assert list(report["files"]) == [name for name in NAMES if name in report["files"]]
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    before, after = read_passport(trained), read_passport(tmp_path / "out")
    assert after.after == before.after
    assert after.base.fingerprint == before.base.fingerprint
    assert after.files[WEIGHTS] == file_hash(tmp_path / "out" / WEIGHTS) != before.files[WEIGHTS]


def test_places_of_this_machine_are_not_told(trained, tiny_model, reviews, tmp_path):
    pack(trained, tmp_path / "a.peft.zip")
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        if file.name != WEIGHTS:
            text = file.read_text()
            assert str(tiny_model.parent) not in text
            assert str(reviews.parent) not in text
    passport = read_passport(tmp_path / "out")
    assert passport.config.model.path == passport.base.path == f"./{tiny_model.name}"
    assert passport.config.data.path == (f"./{reviews.name}",)
    assert settings_of(tmp_path / "out")["base_model_name_or_path"] == f"./{tiny_model.name}"


def test_the_card_of_plain_peft_names_no_folder(plain, tiny_model, tmp_path):
    """PEFT writes the base's folder into its card twice."""
    PeftModel.from_pretrained(base(tiny_model), plain).create_or_update_model_card(plain)
    assert str(tiny_model) in (plain / "README.md").read_text()
    pack(plain, tmp_path / "a.peft.zip")
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"./{tiny_model.name}" in card
    assert str(tiny_model) not in card


def test_an_unpacked_adapter_answers_where_its_base_lies_beside(trained, tiny_model, tmp_path, monkeypatch):
    before = dict(predict(trained, ["a lovely film"])[0]["scores"])
    pack(trained, tmp_path / "a.peft.zip")
    monkeypatch.chdir(tmp_path)
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    shutil.copytree(tiny_model, tmp_path / tiny_model.name)
    after = dict(predict(tmp_path / "out", ["a lovely film"])[0]["scores"])
    assert after == pytest.approx(before, abs=0.02)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "README.md",
            "# Mine\n\nask ann@somewhere.org\n",
            r"README.md holds .* \(mail address, line 3\)",
        ),
        ("README.md", "hf_" + "A1b2" * 8 + "Zz", r"README.md holds .* \(API key, line 1\)"),
        ("chat_template.jinja", "{# /home/ann/x #}", r"jinja holds .* \(folder of a person, line 1\)"),
        ("tokenizer_config.json", '{"a": {"b": ["x", "/Users/ann/m"]}}', r"\(folder of a person, a\.b\[1\]\)"),
    ],
)
def test_secrets_are_refused_with_file_and_place(plain, tmp_path, file, content, message):
    (plain / file).write_text(content)
    with pytest.raises(AdapterError, match=message) as error:
        pack(plain, tmp_path / "a.peft.zip")
    assert "ann" not in str(error.value).replace(str(tmp_path), "")
    assert not list(tmp_path.glob("*.peft.zip"))


def test_a_token_in_a_passport_is_refused(trained, tmp_path):
    passport = json.loads((trained / PASSPORT).read_text())
    passport["config"]["task"]["system"] = "use hf_" + "A1b2" * 8 + "Zz"
    (trained / PASSPORT).write_text(json.dumps(passport))
    with pytest.raises(AdapterError, match=r"peftkit.json holds .* \(API key, config\.task\.system\)"):
        pack(trained, tmp_path / "a.peft.zip")


def test_only_files_of_an_adapter_go_along(plain, tmp_path, capsys):
    for name in ("training_args.bin", "notes.txt", ".env"):
        (plain / name).write_text("x")
    (plain / "tokenizer_config.json").write_text('{"name_or_path": "/srv/models/base", "model_max_length": 8}')
    (plain / "chat_template.jinja").write_text("{{ messages }}")
    report = pack(plain, tmp_path / "a.peft.zip", ui=UI())
    assert list(report["files"]) == [PEFT_CONFIG, "chat_template.jinja", "tokenizer_config.json", WEIGHTS]
    assert ".env, notes.txt, training_args.bin" in report["warnings"][0]
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {
        "name_or_path": "./base",
        "model_max_length": 8,
    }
    assert "nats a token" in capsys.readouterr().out


def test_settings_that_say_nothing_are_left_out(plain, tmp_path):
    edit_settings(plain, a_setting_of_tomorrow=None, use_bdlora=None, arrow_config=None, auto_mapping=None)
    pack(plain, tmp_path / "a.peft.zip")
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    written = settings_of(tmp_path / "out")
    assert None not in written.values()
    assert not {"peft_version", "auto_mapping", "arrow_config", "ensure_weight_tying", "a_setting_of_tomorrow"} & set(
        written
    )
    for name in ("r", "lora_alpha", "peft_type", "task_type", "init_lora_weights", "bias"):
        assert written[name] == settings_of(plain)[name]


def test_settings_that_nobody_knows_yet_stay_and_are_named(plain, tmp_path):
    edit_settings(plain, a_setting_of_tomorrow=3)
    report = pack(plain, tmp_path / "a.peft.zip")
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    assert settings_of(tmp_path / "out")["a_setting_of_tomorrow"] == 3
    assert "a_setting_of_tomorrow" in report["warnings"][0]


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_weights_of_the_base_are_not_in_it(tiny_model, tmp_path, target):
    folder = make_adapter(tiny_model, tmp_path / "a", target_modules=[target], lora_alpha=1)
    state = load_file(folder / WEIGHTS)
    own = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    name = "base_model.model.lm_head" if target == "lm_head" else "base_model.model.model.embed_tokens"
    small = {key: value * 0.01 for key, value in state.items()}
    save_file(small | {f"{name}.base_layer.weight": own.clone()}, folder / WEIGHTS)
    report = pack(folder, tmp_path / "a.peft.zip")
    assert report["bytes"] < 0.2 * (folder / WEIGHTS).stat().st_size
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    assert load_file(tmp_path / "out" / WEIGHTS).keys() == state.keys()
    assert "left out" in report["warnings"][0]
    save_file(small | {f"{name}.base_layer.weight": own + 1}, folder / WEIGHTS)
    with pytest.raises(AdapterError, match="differs from the base model's own weights"):
        pack(folder, tmp_path / "b.peft.zip")


def test_answers_that_rounding_would_change_are_kept_in_float32(tiny_model, tmp_path):
    loud = make_adapter(tiny_model, tmp_path / "loud", target_modules="all-linear", lora_alpha=64)
    with pytest.raises(AdapterError, match=r"in bf16 its answers .* nats a token .* pass --dtype float32"):
        pack(loud, tmp_path / "a.peft.zip")
    report = pack(loud, tmp_path / "a.peft.zip", dtype="float32")
    assert (report["kl"], report["relative_change"]) == (0, 0)
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    before, after = load_file(loud / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_base_that_is_not_here_is_not_fetched(plain, tmp_path):
    edit_settings(plain, base_model_name_or_path="somebody/not-here")
    report = pack(plain, tmp_path / "a.peft.zip")
    assert report["kl"] is None
    assert "not on this machine" in report["checked"]


def test_another_base_of_that_name_is_not_asked(trained, tmp_path):
    passport = json.loads((trained / PASSPORT).read_text())
    passport["base"]["fingerprint"] = "0" * 64
    (trained / PASSPORT).write_text(json.dumps(passport))
    assert "is another one" in pack(trained, tmp_path / "a.peft.zip")["checked"]
    with pytest.raises(AdapterError, match="trained on other weights"):
        pack(trained, tmp_path / "b.peft.zip", base=passport["config"]["model"]["path"])


@pytest.mark.parametrize("dtype", ["bf16", "float32"])
def test_an_adapter_of_integers_is_read_once_and_packed_as_it_is(plain, tmp_path, monkeypatch, dtype):
    def counted(path):
        read.append(path)
        return read_weight_file(path)

    read, read_weight_file = [], weight_files.read_weight_file
    shrink(plain, tmp_path / "int8", dtype="int8")
    monkeypatch.setattr(weight_files, "read_weight_file", counted)
    report = pack(tmp_path / "int8", tmp_path / "a.peft.zip", dtype=dtype)
    assert (report["checked"], report["dtype"]) == ("nothing was rounded", "int8")
    assert read == [tmp_path / "int8" / WEIGHTS]
    unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    before, after = load_file(tmp_path / "int8" / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert settings_of(tmp_path / "out")["peft_type"] == settings_of(tmp_path / "int8")["peft_type"]


def test_an_adapter_of_integers_whose_scales_are_not_finite_is_refused(plain, tmp_path):
    shrink(plain, tmp_path / "int8", dtype="int8")
    state = load_file(tmp_path / "int8" / WEIGHTS)
    scale = next(name for name in state if name.endswith(".int8_scale"))
    save_file(state | {scale: state[scale] * float("inf")}, tmp_path / "int8" / WEIGHTS)
    with pytest.raises(AdapterError, match=r"lora_[AB]\.weight' in .* has values that are not finite"):
        pack(tmp_path / "int8", tmp_path / "a.peft.zip", dtype="float32")


def test_what_cannot_be_packed_is_refused(plain, tmp_path):
    with pytest.raises(ConfigError, match=r"--dtype int8 is not one of bf16, float32; for fewer bits take"):
        pack(plain, tmp_path / "a.peft.zip", dtype="int8")
    with pytest.raises(OutputError, match=r"must end in \.peft\.zip"):
        pack(plain, tmp_path / "a.zip")
    (tmp_path / "a.peft.zip").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists and is not written over"):
        pack(plain, tmp_path / "a.peft.zip")
    assert (tmp_path / "a.peft.zip").read_bytes() == b"mine"
    state = load_file(plain / WEIGHTS)
    next(iter(state.values()))[0, 0] = torch.inf
    save_file(state, plain / WEIGHTS)
    with pytest.raises(AdapterError, match="not finite"):
        pack(plain, tmp_path / "b.peft.zip")
