"""Liger's Triton kernels for norms, rotations of queries and keys, and gated feed-forward layers, while a model trains.

Liger changes a model's modules, and names of the module of transformers that the model is from: both are put back
afterwards, so that later models of the process are as transformers makes them. Its loss stays out: TRL's head is fused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from peftkit.errors import ConfigError, MissingDependencyError

OFF = ("cross_entropy", "fused_linear_cross_entropy")
ON = ("rope", "rms_norm", "swiglu", "geglu")


def require(model: Any, device: str) -> None:
    """Refuse where Liger cannot run.

    Args:
        model: Base model, without its adapter's wrapper.
        device: Kind of device that it is trained on.

    Raises:
        ConfigError: There is no GPU, or Liger has nothing for this kind of model.
        MissingDependencyError: Liger is not here.
    """
    if device != "cuda":
        raise ConfigError("train.liger_kernels=true needs a CUDA GPU; leave it out on a processor")
    if find_spec("liger_kernel") is None:
        raise MissingDependencyError(
            "train.liger_kernels=true needs Liger, which is not here: `pip install 'peftkit[liger]'`, or leave it out"
        )
    kind = model.config.model_type
    if kind not in _known():
        raise ConfigError(f"train.liger_kernels=true: Liger has no kernels for a {kind} model; leave it out")


def put_in(model: Any) -> Callable[[], None]:
    """Have a model run Liger's kernels; return what takes them out again.

    Args:
        model: Base model, without its adapter's wrapper; one that `require` lets through.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    places = [vars(sys.modules[type(model).__module__]), *(vars(one) for one in model.modules())]
    before = [dict(one) for one in places]
    _apply_liger_kernel_to_instance(model, **dict.fromkeys(ON, True), **dict.fromkeys(OFF, False))
    changes = [_changed(was, now) for was, now in zip(before, places, strict=True)]

    def undo() -> None:
        for place, changed in zip(places, changes, strict=True):
            for name, was in changed.items():
                if was is _ABSENT:
                    del place[name]
                else:
                    place[name] = was

    return undo


def _known() -> Any:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return MODEL_TYPE_TO_APPLY_LIGER_FN


_ABSENT = object()


def _changed(was: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what stood, by name, where something else stands now."""
    return {name: was.get(name, _ABSENT) for name, one in now.items() if was.get(name, _ABSENT) is not one}
