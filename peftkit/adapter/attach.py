"""Attach a PEFT adapter to a base model, save it, and load it back strictly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import AdapterConfig, ModelConfig
from peftkit.errors import AdapterError, ConfigError
from peftkit.rundir import atomic, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
_STARTS = (True, False, "gaussian", "orthogonal")


def attach(model: PreTrainedModel, config: AdapterConfig, *, base: ModelConfig, seed: int) -> PeftModel:
    """Freeze the base model and add a trainable adapter in float32.

    TRL casts the adapter of a quantized model to bfloat16, whose 8 bits of mantissa lose small updates; here the
    adapter and its optimizer state stay float32, whatever the base computes in.

    Raises:
        ConfigError: PEFT refuses the settings or cannot train them, or no layer has one of the named targets.
    """
    import torch
    from peft import get_peft_model

    if config.use_dora and base.quantization == "int8":
        raise ConfigError(  # PEFT 0.21 loses the scales of 8-bit weights there, and fails at the second step
            "adapter.use_dora=true does not work on int8 weights; take model.quantization=nf4 or adapter.use_dora=false"
        )
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, peft_config(config), autocast_adapter_dtype=True)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        targets = ", ".join(config.target_modules)
        raise ConfigError(
            f"PEFT refuses this adapter (adapter.target_modules={targets}): {str(error).splitlines()[0][:300]}"
        ) from error
    # PEFT would note the folder that the weights were read from, which means nothing on another machine.
    adapted.peft_config["default"].base_model_name_or_path = base.path
    adapted.peft_config["default"].revision = base.revision
    return adapted


def peft_config(config: AdapterConfig) -> Any:
    """Return PEFT's own configuration object.

    Raises:
        ConfigError: `adapter.extra` holds a name that PEFT does not know, or a start that changes the base model.
    """
    import dataclasses

    from peft import LoraConfig

    known = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in config.extra:
        if name not in known or name in AdapterConfig.model_fields:
            raise ConfigError(f"adapter.extra.{name} is not an argument of PEFT's LoraConfig that can be set here")
    start = config.extra.get("init_lora_weights", True)
    if start not in _STARTS:
        raise ConfigError(  # PiSSA, OLoRA and LoftQ change the base: neither the comparison nor the passport would hold
            f"adapter.extra.init_lora_weights={start} changes the base model's weights, or needs data; "
            f"take one of {', '.join(map(str, _STARTS))}"
        )
    targets = list(config.target_modules)
    return LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type="CAUSAL_LM",
        **config.extra,
    )


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Return trainable and total parameters; a 4-bit weight counts once per value, not per byte."""
    trainable, total = model.get_nb_trainable_parameters()
    return int(trainable), int(total)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write PEFT's two files, the weights sorted by name and the lists in the configuration sorted.

    The bytes then depend on the adapter alone: PEFT itself writes sets in the order of Python's string hashes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # False: PEFT would ask the hub whether the vocabulary was enlarged, which never happens here.
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    with atomic(folder / WEIGHTS) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())},
            temporary,
            metadata={"format": "pt"},
        )
        temporary.chmod(0o644)  # safetensors writes 0600, which no other user's server could read
    written = model.peft_config["default"].to_dict()
    written["inference_mode"] = True
    write_json(folder / PEFT_CONFIG, {name: _plain(value) for name, value in sorted(written.items())})


def _plain(value: Any) -> Any:
    """Make a value of PEFT's configuration JSON, with an order that does not depend on hashes."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return getattr(value, "value", value)


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Attach a saved adapter; every tensor must have its place, and every place its tensor.

    Raises:
        AdapterError: A file is absent or damaged, or tensors are missing, left over, or of another shape.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        settings = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise AdapterError(f"'{folder}' is no adapter: it has no {Path(error.filename or WEIGHTS).name}") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"the adapter in '{folder}' is damaged: {error}") from error
    if not isinstance(settings, dict):
        raise AdapterError(f"the adapter in '{folder}' is damaged: {PEFT_CONFIG} holds no settings")
    if settings.get("peft_type") != "LORA":
        raise AdapterError(
            f"the adapter in '{folder}' is of the kind {settings.get('peft_type')}; only LORA is read here"
        )
    known = set(LoraConfig.__dataclass_fields__)
    fitting = {name: value for name, value in settings.items() if name in known and value is not None}
    fitting["inference_mode"] = not trainable
    try:
        adapted = get_peft_model(model, LoraConfig(**fitting))
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise AdapterError(f"the adapter in '{folder}' does not fit the base model: {reason}") from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _require_same(state, wanted, folder)
    set_peft_model_state_dict(adapted, state)
    return adapted.eval()


def _require_same(state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], folder: Path) -> None:
    missing = sorted(wanted.keys() - state.keys())
    unexpected = sorted(state.keys() - wanted.keys())
    misshaped = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    for names, what in ((missing, "lacks"), (unexpected, "has no place for"), (misshaped, "has another shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            subject = "the adapter" if what == "lacks" else "the base model"
            short = re.sub(r"^base_model\.model\.", "", names[0])
            raise AdapterError(f"the adapter in '{folder}' does not fit: {subject} {what} '{short}'{more}")
