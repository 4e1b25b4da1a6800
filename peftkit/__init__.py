"""Fine-tune a language model on one consumer GPU, see what improved, and share a small adapter."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from peftkit.errors import PeftkitError
from peftkit.recipe import EmbeddedData, Preset, Recipe, load_recipe

if TYPE_CHECKING:
    from peftkit.judge import evaluate_run, predict
    from peftkit.pipeline import RunResult, check, run

__all__ = [
    "EmbeddedData",
    "PeftkitError",
    "Preset",
    "Recipe",
    "RunResult",
    "check",
    "evaluate_run",
    "load_recipe",
    "predict",
    "run",
]

_LAZY = {
    "RunResult": "peftkit.pipeline",
    "check": "peftkit.pipeline",
    "evaluate_run": "peftkit.judge",
    "predict": "peftkit.judge",
    "run": "peftkit.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import the parts that need torch only when they are asked for, so that listing recipes stays quick."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'peftkit' has no attribute '{name}'")
