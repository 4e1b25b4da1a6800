"""Unpack an adapter: from a file that may have been made by anybody, into a folder that holds nothing else."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.passport import PASSPORT, read_passport
from peftkit.adapter.peft_file import read_peft_settings
from peftkit.errors import AdapterError, ModelError, OutputError
from peftkit.model.weight_files import read_weight_file
from peftkit.rundir import atomic_folder, require_new
from peftkit.share.archive import content, read_directory
from peftkit.ui import UI, size


def unpack(file: Path, out: Path, *, ui: UI | None = None) -> dict[str, Any]:
    """Unpack an adapter into a new folder, and check what is in it; nothing of it is run.

    Args:
        file: What `peftkit pack` wrote, or a zip file of an adapter's own files.
        out: The folder to make.
        ui: Where the result is said.

    Returns:
        `out`, the names and sizes of its `files`, their `bytes` together, and whether there is a `passport`.

    Raises:
        AdapterError: The file is damaged or dangerous, or what it holds is no adapter; nothing is left of it then.
        OutputError: The folder exists or cannot be written.
    """
    require_new(out)
    with opened(file) as stream:
        entries = read_directory(stream, file.name)
        total = sum(one.size for one in entries)
        with atomic_folder(out) as folder:
            if total > (free := shutil.disk_usage(folder).free):
                raise OutputError(f"'{out}' needs {size(total)}, and the disk has {size(free)} free; make room")
            for entry in entries:
                with (folder / entry.name).open("xb") as target:
                    for piece in content(stream, entry, file.name):
                        target.write(piece)
                (folder / entry.name).chmod(0o644)
            has_passport = _check(folder, file)
    files = {one.name: one.size for one in entries}
    if ui is not None:
        ui.say(f"{out}: {', '.join(files)} ({size(total)})")
        ui.say("with a passport, which fits its files" if has_passport else "without a passport")
    return {"out": str(out), "files": files, "bytes": total, "passport": has_passport}


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open a pack to read, if it is a plain file.

    Raises:
        AdapterError: There is none, it is a folder or device, or it cannot be read.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise AdapterError(f"'{file}' is no plain file; give a file of peftkit pack")
        stream = file.open("rb")
    except OSError as error:
        raise AdapterError(f"'{str(file)[:80]}' cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def _check(folder: Path, file: Path) -> bool:
    """Check that a folder holds an adapter, whose passport fits if there is one."""
    try:
        for name in (PEFT_CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise AdapterError(f"it lacks {name}")
        read_peft_settings(folder / PEFT_CONFIG)
        read_weight_file(folder / WEIGHTS)
        if (folder / PASSPORT).is_file():
            read_passport(folder)
            return True
    except (AdapterError, ModelError) as error:
        why = str(error).replace(f"{folder}/", "").replace(str(folder), file.name)
        raise AdapterError(f"'{file.name}' holds no adapter that can be used: {why}") from error
    return False
