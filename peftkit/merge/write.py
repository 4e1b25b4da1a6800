"""Write everything of a merged model into its staging folder: weights, settings, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from peftkit.errors import AdapterError
from peftkit.merge.held import trained_dtype
from peftkit.merge.inputs import Inputs
from peftkit.merge.plan import Plan
from peftkit.merge.record import Onto
from peftkit.merge.rows import Trained
from peftkit.merge.staging import RECORD, Staging
from peftkit.merge.stream import write_file
from peftkit.model.weight_files import INDEX
from peftkit.rundir import write_json
from peftkit.ui import UI

LOST = 0.5
"""Below this share of the intended change in any tensor, rounding has taken the adapter away."""
_MB = 10**6
# What is not part of a model that transformers loads, or says something of the base that no longer holds.
_LEFT_OUT = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".py")
_OWN = ("README.md", ".gitattributes", "peftkit-source.json", INDEX, RECORD)


def write_merged(
    inputs: Inputs, plan: Plan, staging: Staging, onto: Onto, ui: UI, *, force: bool
) -> dict[str, dict[str, float | None]]:
    """Write the weights and everything else of a merged model into its staging folder.

    Returns:
        What `peftkit.merge.stream.write_file` says of each changed tensor.

    Raises:
        AdapterError: Rounding takes the adapter away, or a merged value is not finite.
        OutputError: There is no room.
    """
    trained = trained_weights(inputs) if onto == "trained" else None
    seen: dict[str, dict[str, float | None]] = {}
    todo = []
    for file in plan.files:
        known = staging.finished(file.name)
        if known is None:
            todo.append(file)
        else:
            seen |= known
    staging.require_room(sum(file.size for file in todo))
    done = plan.size - sum(file.size for file in todo)
    last = -(-plan.size // _MB)
    with ui.progress("MB written", last) as bar:

        def more(count: int) -> None:
            nonlocal done
            done += count
            bar.to(done // _MB)

        for file in todo:
            partial = staging.partial(file.name)
            own = write_file(file, partial, trained, more)
            staging.finish(file.name, partial, own)
            seen |= own
        bar.to(last)
    _require_kept(inputs, seen, force=force)
    _copy_others(inputs.folder, staging.path)
    _write_config(inputs.folder, staging.path, plan)
    return seen


def trained_weights(inputs: Inputs) -> Trained | None:
    """Return how the base was quantized in training; None where it was not, or where nobody knows."""
    passport = inputs.passport
    if passport is None or passport.base.quantization == "none":
        return None
    return Trained(passport.base.quantization, trained_dtype(passport))


def _require_kept(inputs: Inputs, seen: Mapping[str, Mapping[str, float | None]], *, force: bool) -> None:
    lost = {
        name: one["realised"] for name, one in seen.items() if one["realised"] is not None and one["realised"] < LOST
    }
    if not lost:
        return
    name = min(lost, key=lambda one: lost[one] or 0.0)
    wrong = (
        f"rounding to the base's dtype would take the adapter away: of the change of '{name}' "
        f"{100 * (lost[name] or 0):.0f}% would be left ({len(lost)} tensors of {len(seen)} keep less than {LOST:.0%})"
    )
    if not force:
        raise AdapterError(
            f"{wrong}, as it changes them by less than their last digit; train for longer, keep base and adapter "
            "apart, or pass --force"
        )
    inputs.forced.append(wrong)


def _copy_others(base: Path, out: Path) -> None:
    """Copy tokenizer, settings and licence; not weights, code, or the base's own card."""
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix not in _LEFT_OUT and not _is_own(file.name):
            shutil.copyfile(file, out / file.name)
    templates = base / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, out / templates.name, dirs_exist_ok=True)


def _is_own(name: str) -> bool:
    return name in _OWN or name.endswith(".index.json")


def _write_config(base: Path, out: Path, plan: Plan) -> None:
    """Write what is not as in the base: `config.json` of a head or of embeddings that part, and the index."""
    if plan.config:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        for name, value in plan.config.items():
            config[name] = value
            if name == "tie_word_embeddings" and "text_config" in config:
                config["text_config"][name] = value
        write_json(out / "config.json", config)
    if not (base / INDEX).is_file():
        return
    if not plan.index and not plan.left_out:
        shutil.copyfile(base / INDEX, out / INDEX)
        return
    index = json.loads((base / INDEX).read_text(encoding="utf-8"))
    names = {name: file for name, file in index["weight_map"].items() if name not in plan.left_out} | dict(plan.index)
    index["weight_map"] = dict(sorted(names.items()))
    index.setdefault("metadata", {})["total_size"] = sum(one.size for file in plan.files for one in file.outputs)
    write_json(out / INDEX, index)
