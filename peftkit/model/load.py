"""The base model and its tokenizer: found, loaded for its kind of answer in the right dtype, quantized as asked."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.config import ModelConfig, RunConfig
from peftkit.errors import MemoryGoneError, MissingDependencyError, ModelError, first_line
from peftkit.memory.exhausted import Failure, once_more
from peftkit.model.assets import cache_folder
from peftkit.model.convert import EMBEDDED, gguf_to_safetensors
from peftkit.model.head import OUTPUTS, UNQUANTIZED, has_other_head, head_settings, is_of_head, start_head
from peftkit.model.quantize import (
    LIBRARIES,
    held_kind,
    keep_quantized_weights_in_place,
    quantization_config,
    stored_kind,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftkit.model.family import Family

AUTO_CLASSES: dict[Family, str] = {
    "causal": "AutoModelForCausalLM",
    "head": "AutoModelForSequenceClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
LANGUAGES = ("src_lang", "tgt_lang")
"""Names of `model.extra` that are the tokenizer's: the languages of a translator, in its own codes."""
_ONE_AT_A_TIME = "HF_DEACTIVATE_ASYNC_LOAD"  # several threads read tensors otherwise, and transformers has no argument


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
    path = Path(config.path)
    if config.revision is not None and (config.path in EMBEDDED or path.suffix == ".gguf" or _exists(path)):
        kind = "embedded" if config.path in EMBEDDED else "a folder" if path.is_dir() else "a file"
        raise ModelError(
            f"model.revision={config.revision} is for a hub id, and '{config.path}' is {kind}; leave model.revision out"
        )
    if config.path in EMBEDDED:
        return Source(str(EMBEDDED[config.path](progress)))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no GGUF file '{path}'; give the path of one, a model folder, or a hub id")
        return Source(str(gguf_to_safetensors(path, _converted_folder(path), progress=progress)))
    if _exists(path) and path.is_dir():
        _require_model_folder(path)
        return Source(str(path))
    if _exists(path) or config.path.startswith((".", "/", "~")) or config.path.count("/") != 1:
        raise ModelError(
            f"'{config.path}' is no model: give an embedded one ({', '.join(EMBEDDED)}), a folder with config.json, "
            "a .gguf file, or a hub id such as Qwen/Qwen3-4B-Instruct-2507"
        )
    return Source(config.path, config.revision)


def settings_of(source: Source) -> Any:
    """Read a base model's configuration, and not its weights.

    Raises:
        ModelError: It cannot be found or read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _explain(source, error, "configuration") from error


def load_tokenizer(source: Source, extra: Mapping[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base model, padding on the left as generation needs it.

    Its `model_max_length` is the number of tokens that the model has positions for.

    Args:
        source: The base model.
        extra: `model.extra`, of which the tokenizer takes `src_lang` and `tgt_lang`, the languages of a translator.

    Raises:
        ModelError: It cannot be found or read.
        MissingDependencyError: It needs a library that is not here, such as sentencepiece.
    """
    from transformers import AutoTokenizer

    languages = {name: value for name, value in (extra or {}).items() if name in LANGUAGES}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=False, **languages
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"the tokenizer of '{source.path}' needs a library that is not here: {first_line(error)}; "
            "for .spm and .model files it is `pip install sentencepiece`"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise _explain(source, error, "tokenizer") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = _positions(settings_of(source), tokenizer.model_max_length)
    return tokenizer


def load_model(
    source: Source,
    config: RunConfig,
    family: Family,
    out_of_memory: Callable[[Failure], None] = lambda failure: None,
) -> PreTrainedModel:
    """Load the base model for training on this machine; where memory runs out, once more with one tensor at a time.

    Args:
        source: Where it is.
        config: The run's configuration; for a head, its labels must be known.
        family: How it answers (`peftkit.model.family`).
        out_of_memory: Told before it is loaded once more.

    Returns:
        The model in evaluation mode, its linear layers quantized as they were stored or else as `model.quantization`
        says, and everything else in `resolved_dtype(config.model)`; a head is float32, and all but it is frozen.

    Raises:
        ModelError: It cannot be found, read, or is of a kind that cannot be used.
        ConfigError: The attention that is asked for needs a GPU.
        MemoryGoneError: Its weights do not fit into memory.
        MissingDependencyError: The kind of quantization, or the attention, does not work on this machine.
    """
    from safetensors import SafetensorError

    settings = settings_of(source)
    held, stored = held_kind(settings, config.model), stored_kind(settings)
    arguments = _arguments(source, config, family, settings)

    def again(failure: Failure) -> None:
        os.environ[_ONE_AT_A_TIME] = "1"
        out_of_memory(failure)

    try:
        with _as_it_was(_ONE_AT_A_TIME):
            model, loaded = once_more(lambda: _from_pretrained(source, family, arguments), "model load", again)
    except ImportError as error:
        raise MissingDependencyError(_missing(source, stored, held, error)) from error
    except MemoryGoneError as error:
        raise MemoryGoneError(
            f"the weights of '{config.model.path}' do not fit: {error}; free some memory, or take a smaller model"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _explain(source, error, "model") from error
    fresh = set(loaded["missing_keys"]) | {name for name, *_ in loaded["mismatched_keys"]}
    lost = [name for name in fresh if family != "head" or not is_of_head(model, name)]
    if lost:  # transformers would start these at random with no more than a warning
        raise ModelError(f"the weights in '{source.path}' lack '{min(lost)}'; fetch the model again")
    if family == "head":
        if has_other_head(settings, config.task):
            fresh |= {name for name, _ in model.named_parameters() if name.split(".")[0] in OUTPUTS}
        start_head(model, fresh, config.train.seed)
    if held in ("nf4", "fp4"):
        keep_quantized_weights_in_place(model)
    if held != "none" and stored is None:
        _let_go_of_files(model)
    machine.trim()
    return model.eval()


def _from_pretrained(source: Source, family: Family, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a model, and what was missing in its files or did not fit."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, loaded = getattr(transformers, AUTO_CLASSES[family]).from_pretrained(
            source.path, output_loading_info=True, **arguments
        )
    return model, loaded


def _let_go_of_files(model: PreTrainedModel) -> None:
    """Copy the weights that were not quantized out of their files.

    Weights whose dtype is that of their file are read in place: while one of them is in use, all pages of the file that
    were read stay in this process's memory, those of the layers that were quantized too.
    """
    for one in (*model.parameters(), *model.buffers()):
        if one.device.type == "cpu" and one.is_floating_point():  # quantized weights are integers
            one.data = one.data.clone()


@contextmanager
def _as_it_was(variable: str) -> Iterator[None]:
    """Give a variable of the environment its value back in the end."""
    before = os.environ.get(variable)
    try:
        yield
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


def _arguments(source: Source, config: RunConfig, family: Family, settings: Any) -> dict[str, Any]:
    """Return the named arguments of `from_pretrained`."""
    import torch

    from peftkit.kernels import varlen
    from peftkit.kernels.attention import attention_of

    asked = config.model
    dtype = resolved_dtype(asked)
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "revision": source.revision}
    if asked.quantization != "none" and stored_kind(settings) is None:
        arguments["quantization_config"] = quantization_config(asked, dtype, UNQUANTIZED if family == "head" else None)
    attention = attention_of(config, settings)
    if attention is not None:
        varlen.register()
        arguments["attn_implementation"] = attention
    if machine.device() == "cuda":
        arguments["device_map"] = {"": torch.cuda.current_device()}
    if family == "head":
        arguments |= {**head_settings(config.task), "ignore_mismatched_sizes": True}
        if getattr(settings, "pad_token_id", None) is None:  # a decoder's head looks for the last token before padding
            arguments["pad_token_id"] = load_tokenizer(source).pad_token_id
    return arguments | {name: value for name, value in asked.extra.items() if name not in LANGUAGES}


def _missing(source: Source, stored: str | None, held: str, error: ImportError) -> str:
    if stored is None:
        return (
            f"model.quantization={held} does not work here: {first_line(error)}; "
            "`peftkit doctor` shows what works, model.quantization=none always does"
        )
    libraries = " ".join(LIBRARIES.get(stored, (stored,)))
    return (
        f"the weights in '{source.path}' are stored as {stored}, which needs a library that is not here: "
        f"`pip install {libraries}` ({first_line(error)})"
    )


def _positions(settings: Any, stated: int) -> int:
    """Return how many tokens a model can read; `stated` is what its tokenizer says."""
    from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

    settings = settings.get_text_config()
    positions = getattr(settings, "max_position_embeddings", None)
    if positions is None:  # positions that are only relative, as T5's, have no end
        return int(VERY_LARGE_INTEGER)
    # RoBERTa and its kin number positions from behind the padding token's, which is 1.
    return min(stated, int(positions) - 2 if settings.pad_token_id == 1 and stated > positions else int(positions))


def resolved_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of unquantized weights and of computation."""
    import torch

    name = machine.fast_dtype() if config.dtype == "auto" else config.dtype
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


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
        f"the {part} of '{source.path}'{at} cannot be had from the hub or its cache: "
        f"{first_line(error).rstrip('. ')}; check the name and the network (gated models need `hf auth login`; "
        "HF_HUB_OFFLINE=1 uses the cache alone)"
    )
