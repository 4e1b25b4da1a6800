"""Attach a PEFT adapter to a base model, save it, and load it back strictly."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from peftkit.adapter.convert import require_convertible
from peftkit.adapter.int8_file import unpack_int8
from peftkit.adapter.lora_start import Batches, as_plain_lora, prepare_base, start_lora
from peftkit.adapter.methods import find_method
from peftkit.adapter.peft_config import peft_config, require_fitting
from peftkit.adapter.peft_file import read_peft_settings, require_ranks_in
from peftkit.config import AdapterConfig, ModelConfig
from peftkit.errors import AdapterError, ConfigError, ModelError, OutputError, first_line
from peftkit.model.head import head_modules
from peftkit.model.weight_files import read_tensors
from peftkit.rundir import atomic, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError)


def attach(
    model: PreTrainedModel,
    config: AdapterConfig,
    *,
    base: ModelConfig,
    seed: int,
    task_type: str = "CAUSAL_LM",
    steps: int | None = None,
    batches: Batches = (),
) -> PeftModel:
    """Freeze the base model and add a trainable adapter in float32; the base model itself is never changed.

    TRL casts the adapter of a quantized model to bfloat16, whose 8 bits of mantissa lose small updates; here the
    adapter and its optimizer state stay float32, whatever the base computes in. A classification head is trained and
    saved in full.

    Args:
        model: The base model, as `peftkit.model.load` loads it.
        config: The adapter's settings.
        base: The base model's settings.
        seed: Seed of the adapter's start.
        task_type: PEFT's name of what the model does: CAUSAL_LM, SEQ_CLS or SEQ_2_SEQ_LM.
        steps: Optimizer steps of the run; AdaLoRA needs them.
        batches: Arguments of the model's forward pass, with `labels`; the starts eva, corda and lora_ga need them.

    Raises:
        ConfigError: PEFT refuses the settings or cannot train them, or no layer has one of the named targets.
    """
    import torch
    from peft import get_peft_model

    require_fitting(config, base, task_type)
    settings = peft_config(config, task_type, steps)
    _fit_to_model(settings, model)
    torch.manual_seed(seed)
    try:
        model = prepare_base(model, config, settings, batches)
        torch.manual_seed(seed)
        adapted = get_peft_model(model, settings, autocast_adapter_dtype=True)
        start_lora(adapted, config, batches)
    except _REFUSALS as error:
        targets = f" (adapter.target_modules={','.join(config.target_modules)})" if config.target_modules else ""
        raise ConfigError(f"PEFT refuses adapter.method={config.method}{targets}: {first_line(error)}") from error
    if config.save_as_lora:
        require_convertible(adapted)
    _train_in_float32(adapted)
    _answer_in_one_dtype(adapted)
    # PEFT would note the folder that the weights were read from, which means nothing on another machine.
    adapted.peft_config["default"].base_model_name_or_path = base.path
    adapted.peft_config["default"].revision = base.revision
    return adapted


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Return trainable and total parameters; a 4-bit weight counts once per value, not per byte."""
    trainable, total = model.get_nb_trainable_parameters()
    return int(trainable), int(total)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write PEFT's two files, the weights sorted by name and the lists in the configuration sorted.

    The bytes then depend on the adapter alone: PEFT itself writes sets in the order of Python's string hashes.
    """
    from peft import get_peft_model_state_dict

    # False: PEFT would ask the hub whether the vocabulary was enlarged, which never happens here.
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    state, written = as_plain_lora(model, state, model.peft_config["default"].to_dict())
    write_files(folder, state, written)


def write_files(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the two files of an adapter, each in one piece.

    Args:
        folder: Where to; it is made if need be.
        state: The tensors, by their names in a file.
        settings: PEFT's configuration.
        metadata: More entries for the header of the weights.

    Raises:
        OutputError: A file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # Copies: methods whose layers share tensors have them under each layer's name.
    held = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in sorted(state.items())}
    with atomic(folder / WEIGHTS) as temporary:
        try:
            save_file(held, temporary, metadata={"format": "pt", **metadata})
        except SafetensorError as error:  # it says so where the disk is full
            raise OutputError(f"'{folder / WEIGHTS}' cannot be written: {first_line(error)}") from error
        temporary.chmod(0o644)  # safetensors writes 0600, which no other user's server could read
    written = {**settings, "inference_mode": True}
    write_json(folder / PEFT_CONFIG, {name: _plain(value) for name, value in sorted(written.items())})


def _plain(value: Any) -> Any:
    """Make a value of PEFT's configuration JSON, with an order that does not depend on hashes."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return getattr(value, "value", value)


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Attach a saved adapter; every tensor must have its place, and every place its tensor.

    Raises:
        AdapterError: A file is absent or damaged, the method is none that can be loaded, or tensors are missing, left
            over, of another shape, or hold values that are not finite.
    """
    from peft import get_peft_model

    written, state = read_files(folder)
    require_finite(state, folder)
    settings = saved_settings(written, folder)
    name = str(settings.peft_type.value)
    if trainable and name in ("P_TUNING", "PREFIX_TUNING"):
        raise AdapterError(f"the adapter in '{folder}' holds the finished prompt of {name}, which cannot be trained on")
    settings.inference_mode = settings.is_prompt_learning and not trainable
    try:
        adapted = get_peft_model(model, settings)
    except _REFUSALS as error:
        raise AdapterError(f"the adapter in '{folder}' does not fit the base model: {first_line(error)}") from error
    _fill(adapted, "default", state, folder)
    if not trainable:
        settings.inference_mode = True
        adapted.requires_grad_(False)
    return adapted.eval()


def add_adapter(adapted: PeftModel, name: str, folder: Path) -> None:
    """Attach one more saved adapter to a model that has some, as strictly as `load_adapter`; it is not made active.

    Args:
        adapted: The model, as `load_adapter` gave it.
        name: What PEFT is to call the adapter; no part of another adapter's name, since PEFT looks for it in keys.
        folder: The adapter's folder.

    Raises:
        AdapterError: As `load_adapter`, and where PEFT cannot hold this adapter beside the others.
    """
    written, state = read_files(folder)
    settings = saved_settings(written, folder)
    settings.inference_mode = settings.is_prompt_learning
    if settings.peft_type != adapted.peft_type:
        raise AdapterError(
            f"the adapter in '{folder}' is of the method {settings.peft_type.value} and the first one of "
            f"{adapted.peft_type.value}, which PEFT cannot hold on one base model; use them one at a time"
        )
    try:
        adapted.add_adapter(name, settings)
    except _REFUSALS as error:
        raise AdapterError(
            f"the adapter in '{folder}' cannot be held beside the others: {first_line(error)}; use them one at a time"
        ) from error
    _fill(adapted, name, state, folder)
    settings.inference_mode = True
    adapted.requires_grad_(False)
    adapted.eval()


def _fill(adapted: PeftModel, name: str, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Put saved tensors into the places of a fresh adapter; each must have its place, and each place its tensor."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _train_in_float32(adapted)
    _answer_in_one_dtype(adapted)
    require_same(state, get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False), folder)
    set_peft_model_state_dict(adapted, state, adapter_name=name)


def saved_settings(written: dict[str, Any], folder: Path) -> Any:
    """Return PEFT's configuration of a saved adapter; keys that this PEFT does not know are left out.

    Args:
        written: The content of its `adapter_config.json`.
        folder: Where it was read from.

    Raises:
        AdapterError: The method is none that can be loaded here, or its settings are refused.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    name = str(written.get("peft_type"))
    try:
        refused = "none" in find_method(name).refuses
    except ValueError:
        refused = True
    if refused:
        raise AdapterError(f"the adapter in '{folder}' is of the kind {name}, which cannot be loaded here")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[name]
    fitting = {one.name: written[one.name] for one in dataclasses.fields(kind) if written.get(one.name) is not None}
    try:
        return kind(**fitting)
    except _REFUSALS as error:
        raise AdapterError(f"the adapter in '{folder}' has settings that PEFT refuses: {first_line(error)}") from error


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read the two files of an adapter: PEFT's configuration, and the tensors by their names; integers become float32.

    Raises:
        AdapterError: A file is absent or damaged, or says what no adapter needs (`peftkit.adapter.peft_file`).
    """
    settings, state = read_stored(folder)
    state, settings = unpack_int8(folder, state, settings)
    return settings, state


def read_stored(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read the two files of an adapter as `read_files` does, with the tensors as they are stored.

    Raises:
        AdapterError: As `read_files`.
    """
    try:
        settings = read_peft_settings(folder / PEFT_CONFIG)
        state = read_tensors(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise AdapterError(f"'{folder}' is no adapter: it has no {Path(error.filename or WEIGHTS).name}") from error
    except (OSError, ValueError, ModelError) as error:
        raise AdapterError(f"the adapter in '{folder}' is damaged: {error}") from error
    require_ranks_in(settings, max((side for one in state.values() for side in one.shape), default=0), folder)
    return settings, state


def require_finite(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Refuse an adapter that holds values that are not finite.

    Raises:
        AdapterError: It does.
    """
    for name, tensor in state.items():
        # Floats of 8 bits know no isfinite.
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise AdapterError(f"'{name}' in '{folder}' has values that are not finite; the training went wrong")


def require_same(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Refuse an adapter that lacks a tensor, has one too many, or has one of another shape.

    Raises:
        AdapterError: It does.
    """
    missing = sorted(wanted.keys() - state.keys())
    unexpected = sorted(state.keys() - wanted.keys())
    misshaped = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    for names, what in ((missing, "lacks"), (unexpected, "has no place for"), (misshaped, "has another shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            subject = "the adapter" if what == "lacks" else "the base model"
            short = re.sub(r"^base_model\.model\.", "", names[0])
            raise AdapterError(f"the adapter in '{folder}' does not fit: {subject} {what} '{short}'{more}")


def _fit_to_model(settings: Any, model: PreTrainedModel) -> None:
    """Set what a method takes from the model and PEFT does not know: LLaMA-Adapter's layers, all norms, a head's parts.

    PEFT finds a head by its usual names, which miss parts that start at random (BERT's pooler) and match others twice.
    """
    if settings.task_type == "SEQ_CLS" and hasattr(settings, "modules_to_save"):
        settings.modules_to_save = [*(settings.modules_to_save or ()), *head_modules(model)]
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_KNOWN
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING as NORMS_KNOWN

    kind = settings.peft_type.value
    if kind == "ADAPTION_PROMPT" and settings.adapter_layers is None:
        settings.adapter_layers = model.config.num_hidden_layers
    elif kind == "LN_TUNING" and settings.target_modules is None and model.config.model_type not in NORMS_KNOWN:
        norms = {name.rpartition(".")[2] for name, one in model.named_modules() if type(one).__name__.endswith("Norm")}
        settings.target_modules = norms
    elif kind == "IA3" and settings.target_modules is None and model.config.model_type not in IA3_KNOWN:
        raise ConfigError(
            f"adapter.method=ia3: PEFT knows no usual layers of {model.config.model_type} models; set "
            "adapter.target_modules, and adapter.extra.feedforward_modules for those of them that lead out of an MLP"
        )


def _train_in_float32(model: PeftModel) -> None:
    """Hold what is trained in float32 where PEFT leaves it in the base's dtype: heads and norms.

    PEFT's cast also makes AdaLoRA's count of ranks trainable, which it then does not save; it is frozen again.
    """
    import torch

    half = (torch.bfloat16, torch.float16)
    for name, value in model.named_parameters():
        if ".ranknum." in name:
            value.requires_grad_(False)
    for module in model.modules():
        own = [one for one in module.parameters(recurse=False) if one.dtype in half]
        leaf = not list(module.children()) and not isinstance(module, torch.nn.Embedding)
        if leaf and any(one.requires_grad for one in own):
            dtype = own[0].dtype
            module.float()
            module.register_forward_pre_hook(_inputs_to_float32)
            module.register_forward_hook(functools.partial(_output_to, dtype))


def _answer_in_one_dtype(model: PeftModel) -> None:
    """Let adapted layers answer in the dtype they are asked in: on quantized weights some of PEFT's give float32."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and _output_as_input not in module._forward_hooks.values():
            module.register_forward_hook(_output_as_input)


def _inputs_to_float32(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch

    return tuple(one.float() if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in inputs)


def _output_to(dtype: torch.dtype, module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(dtype)


def _output_as_input(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    import torch

    given = inputs[0] if inputs else None
    if isinstance(output, torch.Tensor) and isinstance(given, torch.Tensor) and given.is_floating_point():
        return output.to(given.dtype)
    return output
