"""A fingerprint of a base model: which weights, tokenizer and template an adapter was trained with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.errors import ModelError
from peftkit.model.assets import cache_folder
from peftkit.model.load import Source
from peftkit.model.weight_files import BLOCK, format_name, read_weight_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def fingerprint(source: Source) -> str:
    """Return the sha256 over every tensor's name, dtype, shape and bytes; the order and number of files do not count.

    Weights are read in blocks of 4 MiB, and each file's digests are cached by path, size and time of change.

    Raises:
        ModelError: The weights are not on this machine as .safetensors files.
    """
    return combined(base_digests(source))


def base_digests(source: Source) -> dict[str, str]:
    """Return the sha256 of each tensor of a base model, as in `tensor_digests`.

    Raises:
        ModelError: The weights are not on this machine as .safetensors files.
    """
    folder = weights_folder(source)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"'{source.path}' has no .safetensors weights on this machine to take a fingerprint of")
    digests: dict[str, str] = {}
    for file in files:
        digests |= _cached_digests(file)
    return digests


def combined(digests: Mapping[str, str]) -> str:
    """Return one sha256 over those of all tensors."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{name}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of the vocabulary and the special tokens."""
    state = {"vocab": sorted(tokenizer.get_vocab().items()), "special": sorted(map(str, tokenizer.all_special_tokens))}
    return hashlib.sha256(json.dumps(state, ensure_ascii=True).encode()).hexdigest()


def text_hash(text: str) -> str:
    """Return the sha256 of a text, such as a chat template."""
    return hashlib.sha256(text.encode()).hexdigest()


def weights_folder(source: Source) -> Path:
    """Return the folder of a base model: its own, or that of the hub's cache.

    Raises:
        ModelError: A hub model is not in the cache.
    """
    from huggingface_hub import snapshot_download

    if source.folder is not None:
        return source.folder
    try:
        return Path(snapshot_download(source.path, revision=source.revision, local_files_only=True))
    except (OSError, ValueError) as error:  # the hub's errors are of these two kinds
        raise ModelError(f"the weights of '{source.path}' are not in the hub's cache on this machine") from error


def _cached_digests(file: Path) -> dict[str, str]:
    real = file.resolve()
    status = real.stat()
    key = hashlib.sha256(f"{real}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    cached = cache_folder() / "fingerprints" / f"{key}.json"
    try:
        found = json.loads(cached.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict):
        return found
    digests = tensor_digests(file)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_suffix(f".tmp-{os.getpid()}")
        temporary.write_text(json.dumps(digests), encoding="utf-8")
        temporary.replace(cached)
    except OSError:
        pass  # a cache that cannot be written costs time only
    return digests


def values_digest(values: torch.Tensor) -> str:
    """Return the sha256 of a tensor in memory, as `tensor_digests` gives it of the same one in a file."""
    import torch

    digest = hashlib.sha256(f"{format_name(values.dtype)}{list(values.shape)}".encode())
    digest.update(values.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_digests(file: Path) -> dict[str, str]:
    """Return the sha256 of each tensor of a safetensors file, over its dtype, shape and bytes.

    Raises:
        ModelError: It is no safetensors file, or is damaged.
    """
    digests = {}
    with file.open("rb") as stream:
        for tensor in read_weight_file(file).tensors:
            stream.seek(tensor.start)
            digest = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
            remaining = tensor.size
            while remaining:
                block = stream.read(min(BLOCK, remaining))
                if not block:
                    raise ModelError(f"'{file}' ends before its tensor '{tensor.name}' does; fetch it again")
                digest.update(block)
                remaining -= len(block)
            digests[tensor.name] = digest.hexdigest()
    return digests
