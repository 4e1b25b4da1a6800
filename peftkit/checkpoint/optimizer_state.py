"""An optimizer's state as tensors and plain values, by the names of the parameters, and strictly back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftkit.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

    from peftkit.checkpoint.random_state import Tensors


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.Tensor, str]
) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors of the state, and its plain values with the settings of each group.

    Args:
        optimizer: Of torch, bitsandbytes or another library: its `state` and `param_groups` are read.
        names: The model's parameters by name.

    Raises:
        ConfigError: It keeps something that is neither a tensor nor a plain value.
    """
    import torch

    tensors: Tensors = {}
    state: dict[str, dict[str, Any]] = {}
    for key, entry in optimizer.state.items():
        owner = f"group:{key}" if isinstance(key, str) else names[key]
        state[owner] = {}
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{owner}/{name}"] = value
            else:
                state[owner][name] = _plain(value, optimizer, name)
    groups = [
        {
            **{name: _plain(value, optimizer, name) for name, value in group.items() if name != "params"},
            "params": [names[one] for one in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    return tensors, {"kind": type(optimizer).__name__, "groups": groups, "state": state}


def set_optimizer_state(
    optimizer: torch.optim.Optimizer,
    names: Mapping[torch.Tensor, str],
    tensors: Mapping[str, torch.Tensor],
    values: Mapping[str, Any],
) -> None:
    """Give a new optimizer the state that `optimizer_state` returned of another one.

    Its groups and its state keep their identity, since schedules and wrappers hold on to them.

    Raises:
        CheckpointError: The state is another kind of optimizer's, or belongs to other parameters.
    """
    if values["kind"] != type(optimizer).__name__:
        raise CheckpointError(f"the state is that of {values['kind']}, and the optimizer is {type(optimizer).__name__}")
    if len(values["groups"]) != len(optimizer.param_groups):
        raise CheckpointError("the optimizer's state has another number of groups; go on with the settings that it had")
    group_of: dict[Any, dict[str, Any]] = {}
    for saved, group in zip(values["groups"], optimizer.param_groups, strict=True):
        settings = {name: value for name, value in saved.items() if name != "params"}
        if saved["params"] != [names[one] for one in group["params"]] or settings.keys() != group.keys() - {"params"}:
            raise CheckpointError("the optimizer's state belongs to other parameters; go on with the settings it had")
        for name, value in settings.items():
            group[name] = tuple(value) if isinstance(group[name], tuple) else value
        group_of |= dict.fromkeys(group["params"], group)
    by_name = {name: value for value, name in names.items()}
    optimizer.state.clear()
    for owner, entry in values["state"].items():
        # Some keep their state by a name of their own, beside tensors of the first parameter's device.
        key = owner.removeprefix("group:") if owner.startswith("group:") else by_name[owner]
        like = optimizer.param_groups[0]["params"][0] if isinstance(key, str) else key
        found = {name.removeprefix(f"{owner}/"): one for name, one in tensors.items() if name.startswith(f"{owner}/")}
        held = {name: _placed(one, name, like, optimizer, group_of.get(key, {})) for name, one in found.items()}
        optimizer.state[key] = {**entry, **held}


def _placed(
    saved: torch.Tensor, name: str, parameter: torch.Tensor, optimizer: Any, group: Mapping[str, Any]
) -> torch.Tensor:
    """Return a tensor of the state where the optimizer would hold it: torch counts steps in main memory."""
    import torch
    from bitsandbytes.optim.optimizer import Optimizer8bit

    if name == "step" and not (group.get("fused") or group.get("capturable")):
        return saved.clone()
    if saved.shape != parameter.shape:
        return saved.to(parameter.device, copy=True)
    if isinstance(optimizer, Optimizer8bit) and name in ("state1", "state2"):
        return optimizer.get_state_buffer(parameter, dtype=saved.dtype).copy_(saved)  # type: ignore[no-any-return]
    return torch.empty_like(parameter, dtype=saved.dtype).copy_(saved)


def _plain(value: Any, optimizer: torch.optim.Optimizer, name: str) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one, optimizer, name) for one in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    kind = type(optimizer).__name__
    raise ConfigError(
        f"train.optim: {kind} keeps '{name}' of type {type(value).__name__}, which cannot be saved, so a run could not "
        "go on after a stop; take another optimizer"
    )
