"""What a merge notes: by what it is told from another one, and `merge.json` beside the merged weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.passport import file_hash
from peftkit.errors import ModelError
from peftkit.merge.inputs import Inputs
from peftkit.merge.plan import Plan
from peftkit.merge.staging import RECORD
from peftkit.rundir import read_json

Onto = Literal["original", "trained"]
"""The weights that an adapter is added to: as they are stored, or as training saw them, quantized and dequantized."""


def key_of(inputs: Inputs, onto: Onto) -> dict[str, Any]:
    """Return what tells one merge from another: adapters, the files of the base, and how."""
    files = [
        (file.name, (status := file.stat()).st_size, status.st_mtime_ns)
        for file in sorted(inputs.folder.glob("*.safetensors"))
    ]
    return {
        "peftkit": version("peftkit"),
        "base": [str(inputs.folder.resolve()), [list(one) for one in files]],
        "adapters": [
            [file_hash(one.folder / WEIGHTS), file_hash(one.folder / PEFT_CONFIG), one.weight]
            for one in inputs.adapters
        ],
        "onto": onto,
    }


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read `merge.json`; None where there is none.

    Raises:
        ModelError: There is no folder.
        OutputError: The file is damaged.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder '{folder}'; give the folder of a merged model")
    if not (folder / RECORD).is_file():
        return None
    record: dict[str, Any] = read_json(folder / RECORD)
    return record


def record_of(
    inputs: Inputs,
    plan: Plan,
    onto: Onto,
    seen: Mapping[str, Mapping[str, float | None]],
    choice: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of `merge.json`, which says nothing of time or place: equal merges give equal bytes."""
    passport = inputs.passport
    return {
        "schema_version": 1,
        "peftkit": version("peftkit"),
        "base": {
            "path": inputs.source.path if passport is None else passport.base.path,
            "revision": inputs.source.revision,
            "fingerprint": inputs.base_fingerprint,
        },
        "adapters": [
            {
                "name": one.folder.name,
                "recipe": one.passport.recipe if one.passport else None,
                "weight": one.weight,
                "sha256": {name: file_hash(one.folder / name) for name in (WEIGHTS, PEFT_CONFIG)},
            }
            for one in inputs.adapters
        ],
        "onto": onto,
        "choice": choice,
        "quantization": passport.base.quantization if passport else None,
        "forced": list(inputs.forced),
        "bytes": plan.size,
        "copied": sum(one.copied for file in plan.files for one in file.outputs),
        "untied": list(plan.untied),
        "left_out": list(plan.left_out),
        "quantized": None,
        "proof": None,
        "changed": dict(sorted(seen.items())),
    }
