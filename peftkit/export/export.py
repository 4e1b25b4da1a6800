"""One way to every form: what is exported, and which form it gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import PEFT_CONFIG
from peftkit.errors import ConfigError
from peftkit.merge.given import adapter_folder
from peftkit.model.convert import EMBEDDED
from peftkit.rundir import require_new
from peftkit.ui import UI

if TYPE_CHECKING:
    from peftkit.merge.record import Onto

_OF_MODELS = ("gguf", "ollama")


def export(
    adapter: Path,
    out: Path,
    *,
    to: str,
    dtype: str | None = None,
    base: str | None = None,
    onto: Onto | None = None,
    force: bool = False,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Write an adapter, or the model that it makes, for other programs.

    Args:
        adapter: Folder of an adapter or a run; for gguf and ollama also a model: its folder, or an embedded one's name.
        out: What is written, which must not exist.
        to: portable, gguf-lora, gguf, mlx or ollama.
        dtype: What numbers are written in, by the names of the form's `DTYPES`; None takes the form's default.
        base: The base model, as for `model.path`; None takes the one that the adapter names.
        onto: Of gguf and ollama: what the adapter is added to; None takes what it was trained and judged on.
        force: Of gguf and ollama: take another base than the adapter's, and say so.
        ui: Where progress and the result are said.

    Returns:
        What the form's own function says.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence; nothing is left behind then.
    """
    ui = ui or UI(quiet=True)
    more = {} if dtype is None else {"dtype": dtype}
    if to in _OF_MODELS:
        return _export_model(adapter, out, to, more, base, onto, force, ui)
    if onto is not None or force:
        raise ConfigError(f"--onto and --force are of gguf and ollama, and --to {to} merges nothing; leave them out")
    if to == "portable":
        from peftkit.export.portable import export_portable

        return export_portable(adapter, out, ui=ui, **more)
    if to == "gguf-lora":
        from peftkit.export.gguf_lora import export_gguf_lora

        return export_gguf_lora(adapter, out, base=base, ui=ui, **more)
    if to == "mlx":
        from peftkit.export.mlx import export_mlx

        return export_mlx(adapter, out, base=base, ui=ui, **more)
    raise ConfigError(f"--to {to} is not one of portable, gguf-lora, gguf, mlx, ollama")


def _export_model(
    adapter: Path,
    out: Path,
    to: str,
    more: dict[str, str],
    base: str | None,
    onto: Onto | None,
    force: bool,
    ui: UI,
) -> dict[str, Any]:
    from peftkit.export.gguf_model import export_gguf, require_dtype, say_gguf
    from peftkit.export.ollama import export_ollama
    from peftkit.export.whole import merged_model, plain_model

    require_new(out)
    if "dtype" in more:
        require_dtype(more["dtype"])
    if is_model(adapter):
        if base is not None or onto is not None:
            raise ConfigError(f"'{adapter}' is a model, which needs no --base and no --onto; leave them out")
        whole = plain_model(str(adapter), ui)
    else:
        whole = merged_model(adapter_folder(adapter), base=base, onto=onto, force=force, ui=ui)
    if to == "ollama":
        return export_ollama(whole, out, ui=ui, **more)
    report = export_gguf(whole, out, ui=ui, **more)
    say_gguf(report, ui)
    return report


def is_model(path: Path) -> bool:
    """Whether a path is a model rather than an adapter: a folder with `config.json` alone, an embedded one, a hub id.

    A hub id counts if the model is in the hub's cache.
    """
    if path.exists():
        return (path / "config.json").is_file() and not (path / PEFT_CONFIG).is_file()
    if str(path) in EMBEDDED:
        return True
    if path.is_absolute() or str(path).count("/") != 1:
        return False
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(str(path), "config.json"), str)
    except HFValidationError:  # no name that the hub knows
        return False
