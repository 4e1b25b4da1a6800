"""A fingerprint is that of the tensors, however they are laid into files."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from peftkit.errors import ModelError
from peftkit.model import fingerprint as module
from peftkit.model.fingerprint import fingerprint, text_hash, tokenizer_hash
from peftkit.model.load import Source, load_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fingerprints"


def tensors():
    return {
        "b": torch.arange(12, dtype=torch.float32).reshape(3, 4),
        "a": torch.ones(5, dtype=torch.bfloat16),
        "c": torch.tensor([1, 2, 3]),
        "empty": torch.zeros(0, 4),
    }


def write(folder, *files, metadata=None):
    folder.mkdir()
    for number, state in enumerate(files):
        save_file(state, folder / f"model-{number}.safetensors", metadata=metadata)
    return fingerprint(Source(str(folder)))


def test_the_number_and_order_of_files_do_not_count(tmp_path):
    state = tensors()
    whole = write(tmp_path / "one", state)
    first = {name: state[name] for name in ("c", "a")}
    second = {name: state[name] for name in ("b", "empty")}
    assert write(tmp_path / "two", first, second) == whole
    assert write(tmp_path / "other", second, first, metadata={"format": "pt"}) == whole
    assert len(whole) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["b"][1].add_(1),
        lambda state: state.update(b=state["b"].reshape(4, 3)),
        lambda state: state.update(c=state["c"].view(torch.float64)),
        lambda state: state.update(d=state.pop("c")),
        lambda state: state.pop("empty"),
        lambda state: state.update(more=torch.zeros(1)),
    ],
    ids=["value", "shape", "dtype", "name", "fewer", "more"],
)
def test_every_difference_counts(tmp_path, change):
    state = tensors()
    whole = write(tmp_path / "one", state)
    change(state)
    assert write(tmp_path / "two", state) != whole


def test_one_changed_byte_counts(tmp_path):
    whole = write(tmp_path / "one", tensors())
    path = tmp_path / "one" / "model-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    later = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(later, later))
    assert fingerprint(Source(str(tmp_path / "one"))) != whole


def test_tensors_larger_than_a_block_are_read_whole(tmp_path, monkeypatch):
    whole = write(tmp_path / "one", tensors())
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "elsewhere"))
    assert fingerprint(Source(str(tmp_path / "one"))) == whole


def test_a_file_is_read_once_until_its_size_or_time_changes(tmp_path, monkeypatch, cache):
    source = Source(str(tmp_path / "one"))
    read = []
    original = module.tensor_digests
    monkeypatch.setattr(module, "tensor_digests", lambda file: read.append(file.name) or original(file))
    whole = write(tmp_path / "one", tensors())
    assert fingerprint(source) == whole
    assert read == ["model-0.safetensors"]
    assert len(list(cache.iterdir())) == 1
    os.utime(tmp_path / "one" / "model-0.safetensors", ns=(5, 5))
    assert fingerprint(source) == whole
    assert read == ["model-0.safetensors"] * 2
    for entry in cache.iterdir():
        entry.write_text("{damaged")
    assert fingerprint(source) == whole
    assert len(read) == 3


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "file"))
    assert write(tmp_path / "one", tensors()) == write(tmp_path / "two", tensors())


def header(value, data=b""):
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 10) + b"{}",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"\xff\xff",
        header([1]),
        header({"a": 1}),
        header({"a": {"dtype": "F32", "shape": [2]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"12345678"),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}, b"12345678"),
    ],
    ids=range(11),
)
def test_a_damaged_file_is_a_model_error(tmp_path, content, cache):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors'"):
        fingerprint(Source(str(tmp_path)))
    assert not cache.exists()


def test_a_folder_without_weights_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        fingerprint(Source(str(tmp_path)))


def test_a_hub_model_that_is_not_here_is_a_model_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="somebody/no-such-model"):
        fingerprint(Source("somebody/no-such-model"))


def test_a_tokenizer_is_known_by_its_vocabulary_and_special_tokens(tiny_model):
    def loaded():
        return load_tokenizer(Source(str(tiny_model)))

    usual = tokenizer_hash(loaded())
    assert tokenizer_hash(loaded()) == usual
    enlarged, marked = loaded(), loaded()
    enlarged.add_tokens(["new"])
    marked.add_special_tokens({"bos_token": "a"})
    assert len({usual, tokenizer_hash(enlarged), tokenizer_hash(marked)}) == 3
    assert text_hash("é") == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"
