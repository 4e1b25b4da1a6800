"""Starts LoRA from the base weights' own directions, without changing the base weights.

PiSSA, OLoRA, CorDA and LoRA-GA take a product of low rank s B0 A0 out of a weight W, and train on from it:
W' = (W - s B0 A0) + s B A. PEFT changes W for that; the adapter then fits no base model that anyone else has, and the
model without its adapter is no longer the base model. Here W stays, and each layer takes s B0 A0 off its own output
instead: W' = W + s B A - s B0 A0. It is the same function with the same gradients, at the price of two more frozen
matrices, and the base model answers as ever. The difference is a LoRA of twice the rank, [B, -B0] [A; A0], which is
how such an adapter is saved (the identity that PEFT's own `subtract_mutated_init` uses).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.starts import find_start
from peftkit.config import AdapterConfig
from peftkit.errors import ConfigError, first_line

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

_A, _B = "start_A", "start_B"
Batches = Sequence[Mapping[str, "torch.Tensor"]]


def prepare_base(model: PreTrainedModel, config: AdapterConfig, settings: Any, batches: Batches) -> PreTrainedModel:
    """Let a start that needs training rows look at them; what it found is left on the model's layers.

    Args:
        model: The base model.
        config: The adapter's settings.
        settings: PEFT's configuration object for them.
        batches: Arguments of the model's forward pass, with `labels`.

    Raises:
        ConfigError: There are no rows to look at.
    """
    import torch
    from peft import LoraConfig, LoraGAConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig

    start = find_start(config.init_lora_weights)
    if start.needs_data and not batches:
        raise ConfigError(f"adapter.init_lora_weights={start.name} needs training rows to look at, and there are none")
    if not (start.reads_base and start.needs_data):
        return model
    adapted = get_peft_model(model, LoraConfig(target_modules=settings.target_modules))
    named = {name.removeprefix("base_model.model.") for name, _ in _layers(adapted)}
    model = adapted.unload()
    own = {"r": config.r, "target_modules": list(named), "init_lora_weights": start.name}
    rows = [
        {key: value[number : number + 1] for key, value in batch.items()}
        for batch in batches
        for number in range(len(batch["input_ids"]))
    ]

    def read() -> None:
        with torch.no_grad():
            for row in rows:
                model(**_unpadded(row))

    def learn() -> None:
        for batch in batches:
            model(**batch).loss.backward()

    if start.name == "corda":  # PEFT's hook takes one row at a time
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(model, LoraConfig(**own, corda_config=_corda(settings, CordaConfig)), run_model=read)
    else:
        from peft.tuners.lora.loraga import preprocess_loraga

        preprocess_loraga(model, LoraConfig(**own, lora_ga_config=settings.lora_ga_config or LoraGAConfig()), learn)
    return model.eval()


def start_lora(model: PeftModel, config: AdapterConfig, batches: Batches) -> None:
    """Set the matrices of a freshly attached LoRA as `adapter.init_lora_weights` says.

    Raises:
        ConfigError: The rows are too short for what the start wants to learn from them, or the machine cannot do it.
    """
    from peft import LoraGAConfig, initialize_lora_eva_weights, replace_lora_weights_loftq

    start = find_start(config.init_lora_weights)
    if start.reads_base:
        settings = model.peft_config["default"]
        for _, layer in _layers(model):
            with _kept(layer.get_base_layer()):
                if start.name == "pissa":
                    layer.pissa_init("default", config.init_lora_weights)
                elif start.name == "olora":
                    layer.olora_init("default")
                elif start.name == "corda":
                    layer.corda_init("default", "corda")
                else:
                    layer.lora_ga_init("default", settings.lora_ga_config or LoraGAConfig())
            _take_off(layer)
    elif start.name == "eva":
        _require_tokens(model.peft_config["default"], batches)
        initialize_lora_eva_weights(model, [dict(batch) for batch in batches], show_progress_bar=False)
        model.peft_config["default"].init_lora_weights = True  # as a file it is a plain LoRA, with ranks of its own
        model.peft_config["default"].eva_config = None
        for _, layer in _layers(model):  # those that got another rank were made anew, in the base's dtype
            layer.lora_A.float()
            layer.lora_B.float()
    elif start.name == "loftq":
        _loftq(model, replace_lora_weights_loftq)


def as_plain_lora(
    model: PeftModel, state: dict[str, torch.Tensor], settings: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return weights and settings of the LoRA that fits the unchanged base: of twice the rank where a start was taken.

    Args:
        model: The adapted model.
        state: Its adapter's tensors, A of shape (r, in) and B of shape (out, r), by their names in a file.
        settings: PEFT's configuration as it would be written.
    """
    import torch

    doubled = False
    state = dict(state)
    for name, layer in _layers(model):
        if not hasattr(layer, _A):
            continue
        doubled = True
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        state[a] = torch.cat([state[a], getattr(layer, _A).to(state[a])], dim=0)
        state[b] = torch.cat([state[b], -getattr(layer, _B).to(state[b])], dim=1)
    if doubled:
        scale = 2**0.5 if settings["use_rslora"] else 2  # keeps lora_alpha / r, or / sqrt(r)
        settings = settings | {"r": 2 * settings["r"], "lora_alpha": scale * settings["lora_alpha"]}
        settings = settings | {"lora_ga_config": None, "corda_config": None}
    return state, settings


def _layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _take_off(layer: Any) -> None:
    """Keep a layer's first A and B, and take their product off its output from now on."""
    import torch

    for name, part in ((_A, layer.lora_A["default"]), (_B, layer.lora_B["default"])):
        part.weight.data = part.weight.data.float()
        layer.register_buffer(name, part.weight.detach().clone(), persistent=False)

    def without_start(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if module.disable_adapters:
            return output
        first = torch.nn.functional.linear(inputs[0].to(getattr(module, _A).dtype), getattr(module, _A))
        product = torch.nn.functional.linear(first, getattr(module, _B)) * module.scaling["default"]
        rest: torch.Tensor = output - product.to(output.dtype)
        return rest

    layer.register_forward_hook(without_start)


@contextmanager
def _kept(layer: Any) -> Iterator[None]:
    """Give a layer its own weight back afterwards, bit for bit; PEFT replaces a quantized one as a whole."""
    weight = layer.weight
    values = weight.data.clone() if weight.is_floating_point() else weight.data
    yield
    weight.data = values
    layer.weight = weight


def _corda(settings: Any, kind: Any) -> Any:
    corda = settings.corda_config or kind()
    if corda.cache_file or corda.covariance_file:
        raise ConfigError("adapter.extra.corda_config: its files are pickled and are not read here; leave them out")
    return corda


def _unpadded(row: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out what is padding in one row; tensors of shape (1, length) become (1, tokens)."""
    mask = row.get("attention_mask")
    if mask is None:
        return dict(row)
    seen = mask[0].bool()
    return {key: value[:, seen] if value.shape == mask.shape else value for key, value in row.items()}


def _require_tokens(settings: Any, batches: Batches) -> None:
    """Refuse rows that PEFT would wait on for ever: EVA skips each batch with fewer tokens than directions."""
    wanted = round(settings.r * settings.eva_config.rho)
    for batch in batches:
        counted = batch.get("attention_mask")
        mask = counted if counted is not None else batch["input_ids"] >= 0
        if settings.eva_config.use_label_mask and "labels" in batch:
            mask = mask.bool() & (batch["labels"] != settings.eva_config.label_mask_value)
        if int(mask.sum()) < wanted:
            raise ConfigError(
                f"adapter.init_lora_weights=eva needs batches of at least {wanted} tokens for adapter.r={settings.r}; "
                "set a smaller adapter.r, or a larger train.per_device_train_batch_size"
            )


def _loftq(model: PeftModel, replace: Any) -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "adapter.init_lora_weights=loftq needs a CUDA GPU, on which PEFT computes what 4-bit weights lost"
        )
    path = model.get_base_model().config.name_or_path
    try:
        replace(model, model_path=path if Path(path).is_dir() else None)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(
            f"adapter.init_lora_weights=loftq needs the unquantized weights: {first_line(error)}"
        ) from error
