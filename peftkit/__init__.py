"""Fine-tune a language model on one consumer GPU, see what improved, and share a small adapter."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftkit.errors import PeftkitError
    from peftkit.evaluate.metric import Metric
    from peftkit.judge import evaluate_run, predict
    from peftkit.pipeline import RunResult, check, resume, run
    from peftkit.recipe import EmbeddedData, Preset, Recipe, load_recipe
    from peftkit.stopping import Stopped

_HOMES = {
    "EmbeddedData": "peftkit.recipe",
    "Metric": "peftkit.evaluate.metric",
    "PeftkitError": "peftkit.errors",
    "Preset": "peftkit.recipe",
    "Recipe": "peftkit.recipe",
    "RunResult": "peftkit.pipeline",
    "Stopped": "peftkit.stopping",
    "check": "peftkit.pipeline",
    "evaluate_run": "peftkit.judge",
    "load_recipe": "peftkit.recipe",
    "predict": "peftkit.judge",
    "resume": "peftkit.pipeline",
    "run": "peftkit.pipeline",
}
__all__ = [
    "EmbeddedData",
    "Metric",
    "PeftkitError",
    "Preset",
    "Recipe",
    "RunResult",
    "Stopped",
    "check",
    "evaluate_run",
    "load_recipe",
    "predict",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the command line starts quickly, and torch comes only with a run."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'peftkit' has no attribute '{name}'")
