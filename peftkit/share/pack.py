"""Pack an adapter into one file: the same bytes on every machine, half the size, and nothing private in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, read_stored, require_finite, write_files
from peftkit.adapter.card import CARD
from peftkit.adapter.int8_file import INT8_METADATA, INT8_TYPE, unpack_int8
from peftkit.adapter.passport import PASSPORT, file_hash, read_passport, write_passport
from peftkit.errors import AdapterError, ConfigError, OutputError
from peftkit.merge.given import adapter_folder
from peftkit.rundir import atomic, require_new
from peftkit.share.archive import NAMES, TOKENIZER_FILES, write_archive
from peftkit.share.base_weights import base_weights_in
from peftkit.share.portable import make_portable, shared_names
from peftkit.share.rounding import DTYPES, MOST_KL, Agreement, answers_before_and_after, relative_change, rounded
from peftkit.ui import UI, size

if TYPE_CHECKING:
    import torch

ENDING = ".peft.zip"


def pack(
    adapter: Path, out: Path, *, dtype: str = "bf16", base: str | None = None, ui: UI | None = None
) -> dict[str, Any]:
    """Pack an adapter into one file.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        out: The file to write, which must not exist; its name ends in `.peft.zip`.
        dtype: `bf16` halves what is stored in float32, if that changes no answer by more than `MOST_KL`; `float32`
            keeps all numbers as they are, as those of an adapter of integers always are.
        base: The base model that this is checked with; None takes the one that the adapter names, if it is here.
        ui: Where progress and the result are said.

    Returns:
        `out`, its `sha256` and `bytes`, the adapter's `bytes_before`, the `files` with their sizes, `dtype`,
        `relative_change`, `kl` and what it was measured on, and `warnings`.

    Raises:
        ConfigError: The dtype is not one of `DTYPES`.
        AdapterError: The adapter is damaged, holds what must not be shared, or would answer otherwise.
        OutputError: The file exists or cannot be written.
    """
    ui = ui or UI(quiet=True)
    machine.quiet_libraries()
    _require_usable(out, dtype)
    folder = adapter_folder(adapter)
    passport = read_passport(folder) if (folder / PASSPORT).is_file() else None
    settings, stored = read_stored(folder)
    require_finite(unpack_int8(folder, stored, settings)[0], folder)
    warnings = []
    of_base = base_weights_in(folder, stored, base)
    if of_base:
        warnings.append(f"weights of the base model are left out, as the base has them: '{of_base[0]}'")
    stored = {name: one for name, one in stored.items() if name not in of_base}
    is_int8 = settings.get("peft_type") == INT8_TYPE
    state = stored if is_int8 else rounded(stored, dtype)  # to round the scales of integers would save next to nothing
    held = "int8" if is_int8 else dtype
    report: dict[str, Any] = {"out": str(out), "dtype": held, "relative_change": relative_change(stored, state)}
    report |= _checked(folder, stored, state, base, ui)
    if left_out := shared_names(folder):
        warnings.append(f"not among the files of an adapter, and left out: {', '.join(left_out[:5])}")
    with tempfile.TemporaryDirectory(prefix="peftkit-pack-") as scratch:
        made = Path(scratch)
        write_files(made, state, settings, INT8_METADATA if is_int8 else {})
        for name in (CARD, *TOKENIZER_FILES):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, made / name)
        if passport is not None:
            hashes = {name: file_hash(made / name) for name in (WEIGHTS, PEFT_CONFIG)}
            write_passport(made, passport.model_copy(update={"files": hashes}))
        if unknown := make_portable(made, folder):
            warnings.append(
                f"{PEFT_CONFIG} has settings that this PEFT does not know, which are kept: {', '.join(unknown)}"
            )
        for text in warnings:
            ui.warn(text)
        report |= _write(out, made)
    report |= {"bytes_before": (folder / WEIGHTS).stat().st_size, "warnings": warnings}
    _say(ui, report)
    return report


def _require_usable(out: Path, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ConfigError(
            f"--dtype {dtype} is not one of {', '.join(DTYPES)}; for fewer bits take peftkit shrink first, and pack "
            "what it makes with --dtype float32"
        )
    if not out.name.endswith(ENDING):
        raise OutputError(f"'{out}' must end in {ENDING}, so that it is known for what it is")
    require_new(out)


def _checked(
    folder: Path, stored: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], base: str | None, ui: UI
) -> dict[str, Any]:
    """Return how far the answers changed, and refuse what changes them too much."""
    if all(state[name] is one for name, one in stored.items()):
        return {"kl": 0.0, "checked": "nothing was rounded"}
    found = answers_before_and_after(folder, state, base, ui)
    if not isinstance(found, Agreement):
        return {"kl": None, "checked": f"not with the base model: {found}"}
    apart = found.kl if found.kl is not None else (found.difference or 0.0) ** 2
    if apart > MOST_KL:
        what = f"{found.kl:.2g} nats a token" if found.kl is not None else f"{found.difference:.2g} standard units"
        raise AdapterError(
            f"the adapter in '{folder}' is not packed: in bf16 its answers to {found.texts} are {what} away from "
            "those before, which is too much; pass --dtype float32"
        )
    return {
        "kl": found.kl,
        **({"difference": found.difference} if found.kl is None else {}),
        "checked": f"at {found.positions} places of {found.texts}",
    }


def _write(out: Path, made: Path) -> dict[str, Any]:
    """Write the archive of a folder's files, in one piece."""
    files = [made / name for name in NAMES if (made / name).is_file()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"'{out}' cannot be written: {error.strerror}; give another place") from error
    with atomic(out) as temporary:
        with temporary.open("xb") as stream:
            write_archive(stream, files)
        temporary.chmod(0o644)
        require_new(out)  # nobody made it in the meantime
    return {
        "sha256": file_hash(out),
        "bytes": out.stat().st_size,
        "files": {one.name: one.stat().st_size for one in files},
    }


def _say(ui: UI, report: dict[str, Any]) -> None:
    share = report["bytes"] / report["bytes_before"]
    ui.say(f"{report['out']}: {size(report['bytes'])}, {100 * share:.1f}% of the {size(report['bytes_before'])} before")
    ui.say(", ".join(report["files"]))
    if report["relative_change"]:
        measured = f"the answers are {report['kl']:.2g} nats a token apart " if report["kl"] is not None else ""
        if "difference" in report:
            measured = f"the scores are {report['difference']:.2g} standard units apart "
        ui.say(
            f"stored in {report['dtype']}, a relative change of {report['relative_change']:.2g}; {measured}"
            f"{report['checked'] if measured else 'checked ' + report['checked']}"
        )
    ui.say(f"sha256 {report['sha256']}")
