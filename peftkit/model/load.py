"""The base model and its tokenizer: found, loaded in the right dtype, and quantized as asked."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.config import ModelConfig
from peftkit.errors import MissingDependencyError, ModelError, first_line
from peftkit.model.assets import cache_folder
from peftkit.model.convert import embedded_model, gguf_to_safetensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Source:
    """Where a base model is read from.

    Attributes:
        path: Local folder, or the hub id.
        revision: Commit, tag or branch of a hub id.
    """

    path: str
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a hub id."""
        return Path(self.path) if Path(self.path).is_dir() else None


def find_model(config: ModelConfig, progress: Callable[[str], None] | None = None) -> Source:
    """Find the base model that a configuration names; embedded and GGUF models are converted once and reused.

    Raises:
        ModelError: There is no such model, or the folder is none.
    """
    if config.path == EMBEDDED:
        return Source(str(embedded_model(progress)))
    path = Path(config.path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no GGUF file '{path}'; give the path of one, a model folder, or a hub id")
        return Source(str(gguf_to_safetensors(path, _converted_folder(path), progress=progress)))
    if _exists(path) and path.is_dir():
        _require_model_folder(path)
        return Source(str(path))
    if _exists(path) or config.path.startswith((".", "/", "~")) or config.path.count("/") != 1:
        raise ModelError(
            f"'{config.path}' is no model: give '{EMBEDDED}', a folder with config.json, a .gguf file, or a hub id "
            "such as Qwen/Qwen3-4B-Instruct-2507"
        )
    return Source(config.path, config.revision)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base model, padding on the left as generation needs it.

    Raises:
        ModelError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _explain(source, error, "tokenizer") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_model(source: Source, config: ModelConfig) -> PreTrainedModel:
    """Load the base model for training on this machine.

    Returns:
        The model in evaluation mode, its linear layers quantized as `config.quantization` says and everything else in
        `resolved_dtype(config)`.

    Raises:
        ModelError: It cannot be found, read, or is of a kind that cannot be used.
        MissingDependencyError: The kind of quantization does not work on this machine.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = resolved_dtype(config)
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "revision": source.revision}
    if config.quantization != "none":
        arguments["quantization_config"] = quantization_config(config, dtype)
    if config.attn_implementation is not None:
        arguments["attn_implementation"] = config.attn_implementation
    if machine.device() == "cuda":
        arguments["device_map"] = {"": torch.cuda.current_device()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, loaded = AutoModelForCausalLM.from_pretrained(
                source.path, output_loading_info=True, **(arguments | config.extra)
            )
    except ImportError as error:
        raise MissingDependencyError(
            f"model.quantization={config.quantization} does not work here: {first_line(error)}; "
            "`peftkit doctor` shows what works, model.quantization=none always does"
        ) from error
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the weights of '{config.path}' do not fit into this GPU's memory; take model.quantization=nf4, "
            "a smaller model, or a smaller preset"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _explain(source, error, "model") from error
    if loaded["missing_keys"]:  # transformers would start these at random with no more than a warning
        raise ModelError(f"the weights in '{source.path}' lack '{min(loaded['missing_keys'])}'; fetch the model again")
    if config.quantization in ("nf4", "fp4"):
        keep_quantized_weights_in_place(model)
    machine.trim()
    return model.eval()


def resolved_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of unquantized weights and of computation."""
    import torch

    name = machine.fast_dtype() if config.dtype == "auto" else config.dtype
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def quantization_config(config: ModelConfig, dtype: torch.dtype) -> Any:
    """Return bitsandbytes' settings: 4-bit kinds with double quantization, computing in `dtype`."""
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_quantized_weights_in_place(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights when a model is evaluated on a processor with AVX512-BF16.

    bitsandbytes 0.50 repacks them in place at the first evaluation; a layer that was repacked passes no gradient on,
    so training after an evaluation would be wrong without a word.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _converted_folder(gguf: Path) -> Path:
    """Return the folder of a GGUF file's conversion; another file, or a changed one, has another."""
    status = gguf.stat()
    digest = hashlib.sha256(f"{gguf.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    return cache_folder() / "models" / f"{gguf.stem}-{digest[:12]}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for the file system
        return False


def _require_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise ModelError(f"the folder '{folder}' holds no model (no config.json; it holds {held})")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"the model in '{folder}' cannot be loaded: its config.json is damaged ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"the model in '{folder}' cannot be loaded: its config.json holds no settings")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"the folder '{folder}' holds no .safetensors weights; other formats can run code and are not read"
        )


def _explain(source: Source, error: Exception, part: str) -> ModelError:
    if source.folder is not None:
        return ModelError(f"the {part} in '{source.path}' cannot be loaded: {first_line(error)}")
    at = f" at revision '{source.revision}'" if source.revision else ""
    return ModelError(
        f"the {part} of '{source.path}'{at} cannot be had from the hub or its cache: {first_line(error)} "
        "(check the name and the network; gated models need `hf auth login`; HF_HUB_OFFLINE=1 uses the cache alone)"
    )
