"""A signature holds for the files that were signed, the key that signed them, and the base they belong to."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from peftkit.adapter.attach import WEIGHTS
from peftkit.cli import app
from peftkit.errors import AdapterError, ConfigError, MissingDependencyError, OutputError
from peftkit.share.pack import pack
from peftkit.share.sign import SIGNATURE, new_key, sign, verify_signature

from ..merge.bases import base as other_model

run = CliRunner().invoke


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return folder / "mine.pem", new_key(folder / "mine.pem"), new_key(folder / "other.pem")


@pytest.fixture
def folder(runs, tmp_path, keys):
    """A signed adapter."""
    made = shutil.copytree(runs[0] / "adapter", tmp_path / "a")
    sign(made, keys[0])
    return made


@pytest.fixture
def packed(runs, tmp_path, keys):
    """A signed pack."""
    pack(runs[0], tmp_path / "a.peft.zip", dtype="float32")
    sign(tmp_path / "a.peft.zip", keys[0])
    return tmp_path / "a.peft.zip"


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_what_was_signed_is_verified_wherever_it_lies(folder, packed, keys, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    assert verify_signature(moved, keys[1])["signature"] == str(moved / SIGNATURE)
    assert verify_signature(packed, keys[1])["signature"] == f"{packed}.sig"


def test_an_adapter_is_signed_through_its_run(runs, tmp_path, keys):
    run_folder = shutil.copytree(runs[0], tmp_path / "run")
    assert sign(run_folder, keys[0])["signature"] == str(run_folder / "adapter" / SIGNATURE)
    verify_signature(run_folder, keys[1])


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json", "peftkit.json", "README.md"])
@pytest.mark.parametrize("place", [0, -1])
def test_one_changed_byte_is_noticed(folder, keys, name, place):
    flip(folder / name, place)
    with pytest.raises(AdapterError, match=rf"is not what was signed: '{name}' was changed$"):
        verify_signature(folder, keys[1])


def test_any_changed_byte_of_a_pack_is_noticed(packed, keys):
    size = packed.stat().st_size
    for place in (0, 8, 11, 40, size // 2, size - 23, size - 1):
        flip(packed, place)
        with pytest.raises(AdapterError, match=r"is not what was signed: the file was changed$"):
            verify_signature(packed, keys[1])
        flip(packed, place)
    verify_signature(packed, keys[1])


@pytest.mark.parametrize("name", ["evil.py", ".gitignore", ".git/config", f".{SIGNATURE}.tmp-1", "deep/down/x"])
def test_an_added_file_is_noticed(folder, keys, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(AdapterError, match="was added"):
        verify_signature(folder, keys[1])


def test_a_missing_file_is_noticed(folder, keys):
    (folder / "README.md").unlink()
    with pytest.raises(AdapterError, match=r"'README.md' is missing$"):
        verify_signature(folder, keys[1])


def test_a_link_is_noticed(folder, keys, tmp_path):
    shutil.copy(folder / WEIGHTS, tmp_path / "w")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "w")
    with pytest.raises(AdapterError, match="is not what was signed"):
        verify_signature(folder, keys[1])


def test_another_key_is_noticed(folder, keys):
    with pytest.raises(AdapterError, match="signed with another key than that of"):
        verify_signature(folder, keys[2])


def test_a_signature_of_another_key_that_claims_to_be_of_this_one_is_noticed(folder, keys, tmp_path):
    bundle = json.loads((folder / SIGNATURE).read_text())
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    (folder / SIGNATURE).unlink()
    sign(folder, keys[2].with_name("other.pem"))
    forged = json.loads((folder / SIGNATURE).read_text())
    forged["verificationMaterial"]["publicKey"]["hint"] = hint
    (folder / SIGNATURE).write_text(json.dumps(forged))
    with pytest.raises(AdapterError, match="is damaged, or not made with the key"):
        verify_signature(folder, keys[1])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\x80\x04pickle", b'{"dsseEnvelope": 1}', b"[" * 100_000])
def test_a_damaged_signature_is_refused(folder, keys, content):
    (folder / SIGNATURE).write_bytes(content)
    with pytest.raises(AdapterError, match="is damaged, or not made with the key"):
        verify_signature(folder, keys[1])


def test_without_a_signature_nothing_is_verified(runs, keys):
    with pytest.raises(AdapterError, match=r"there is no signature '.*model.sig'; sign it"):
        verify_signature(runs[1], keys[1])


def test_another_base_is_noticed(folder, packed, keys, tiny_model):
    for what in (folder, packed):
        assert verify_signature(what, keys[1], base=str(tiny_model))["base"] == str(tiny_model)
        with pytest.raises(AdapterError, match="belongs to another base model than"):
            verify_signature(what, keys[1], base=str(other_model("llama")))


def test_a_pack_without_a_passport_says_nothing_of_its_base(folder, keys, tiny_model, tmp_path):
    for name in ("peftkit.json", SIGNATURE, "README.md"):
        (folder / name).unlink()
    pack(folder, tmp_path / "b.peft.zip", dtype="float32")
    sign(tmp_path / "b.peft.zip", keys[0])
    with pytest.raises(AdapterError, match="has no passport, so it does not say"):
        verify_signature(tmp_path / "b.peft.zip", keys[1], base=str(tiny_model))


def test_a_new_key_is_its_owners_alone_and_replaces_nothing(tmp_path):
    old = os.umask(0)
    try:
        public = new_key(tmp_path / "k.pem")
    finally:
        os.umask(old)
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    assert public == tmp_path / "k.pub.pem"
    before = (tmp_path / "k.pem").read_bytes()
    with pytest.raises(OutputError, match="is not written over"):
        new_key(tmp_path / "k.pem")
    assert (tmp_path / "k.pem").read_bytes() == before


def test_keys_that_cannot_be_used_are_a_configuration_error(folder, packed, keys, tmp_path):
    (tmp_path / "no.pem").write_text("nothing")
    (folder / SIGNATURE).unlink()
    for key in (tmp_path / "no.pem", keys[1], tmp_path / "nowhere.pem"):
        with pytest.raises(ConfigError, match=r"no private key that can be used|there is no key"):
            sign(folder, key)
    with pytest.raises(ConfigError, match="no public key that can be used"):
        verify_signature(packed, keys[0])
    assert not (folder / SIGNATURE).exists()


def test_what_is_signed_is_not_signed_over(folder, keys):
    with pytest.raises(OutputError, match="exists and is not written over"):
        sign(folder, keys[0])


def test_without_the_library_it_is_named(folder, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'peftkit\[sign\]'"):
        verify_signature(folder, keys[1])


def test_other_tools_of_openssf_verify_it(folder, keys):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "verify", "key", folder),
            *("--signature", folder / SIGNATURE, "--public_key", keys[1]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_commands(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs[0] / "adapter", "a")
    done = run(app, ["sign", "a", "--new-key", "k.pem"])
    assert done.exit_code == 0, done.output
    assert json.loads(run(app, ["verify", "a", "--key", "k.pub.pem", "--json"]).stdout)["what"] == "a"
    (tmp_path / "a" / "more").write_text("x")
    done = run(app, ["verify", "a", "--key", "k.pub.pem"])
    assert (done.exception.exit_code, str(done.exception)) == (5, "'a' is not what was signed: 'more' was added")
    for words, message in (
        (["sign", "a"], "needs what to sign and --key"),
        (["sign", "--key", "k.pem"], "needs what to sign and --key"),
        (["verify", "a"], "--adapter for a merged model, or --key for a signature"),
        (["verify", "a", "--key", "k.pub.pem", "--adapter", "a"], "and not both"),
        (["verify", "a", "--key", "k.pub.pem", "--rows", "3"], "--onto and --rows are for a merged model"),
    ):
        done = run(app, words)
        assert done.exception.exit_code == 2
        assert message in str(done.exception)
