"""What other programs make of an adapter: whether they take it as it is, and what to do where they do not.

Only the configuration and the header of the weights are read. What is said of a program was read in its source or seen
in a test, at the version that `READERS` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.int8_file import INT8_TYPE
from peftkit.adapter.peft_file import read_peft_settings
from peftkit.errors import AdapterError, ConfigError, ModelError
from peftkit.merge.given import adapter_folder
from peftkit.merge.lora_file import is_saved_whole, why_not_plain
from peftkit.model.weight_files import read_weight_file

READERS = {
    "vllm": "vLLM 0.32",
    "llama.cpp": "llama.cpp as in llama-cpp-python 0.3.36",
    "mlx": "MLX-LM 0.32.2",
    "sglang": "SGLang 0.5.23",
    "ollama": "Ollama 0.34",
}
"""The programs by the words that name them here, with the version that is spoken of."""

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `--max-lora-rank`."""

Way = Literal["as it is", "export", "merge", "none"]


@dataclass(frozen=True)
class Facts:
    """What a reader has to know of an adapter.

    Attributes:
        settings: PEFT's configuration.
        ranks: The rank of each module that LoRA changes, by its name in the base model.
        embeddings: Modules that are embeddings or the output, among those.
        whole: Tensors that are saved as a whole.
        packed: Whether the factors are integers that peftkit alone reads.
    """

    settings: Mapping[str, Any]
    ranks: Mapping[str, int]
    embeddings: tuple[str, ...]
    whole: tuple[str, ...]
    packed: bool

    @property
    def scales_by_setting(self) -> bool:
        """Whether a module's scale or rank has to be looked up, so that a reader can get it wrong."""
        return any(self.settings.get(name) for name in ("use_rslora", "rank_pattern", "alpha_pattern"))


@dataclass(frozen=True)
class Verdict:
    """What a reader makes of an adapter.

    Attributes:
        reader: One of `READERS`.
        version: The version that is spoken of.
        way: Whether it takes the adapter as it is, exported, or only merged into its base; none where nothing helps.
        problems: Why not as it is, a sentence each.
        commands: What to run, each one line; empty where it takes the adapter as it is.
    """

    reader: str
    version: str
    way: Way
    problems: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def takes(self) -> bool:
        """Whether it takes the adapter as it is."""
        return self.way == "as it is"


def judge_reader(adapter: Path, reader: str) -> Verdict:
    """Say whether a program takes an adapter, and what to do if not.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        reader: One of `READERS`.

    Raises:
        ConfigError: There is no such reader.
        AdapterError: The adapter is absent or damaged.
    """
    if reader not in READERS:
        raise ConfigError(f"--for {reader} is not one of {', '.join(READERS)}")
    return judge_facts(read_facts(adapter), reader)


def read_facts(adapter: Path) -> Facts:
    """Read what readers have to know of an adapter, from its configuration and the header of its weights.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.

    Raises:
        AdapterError: It is absent or damaged.
    """
    folder = adapter_folder(adapter)
    try:
        settings = read_peft_settings(folder / PEFT_CONFIG)
        tensors = read_weight_file(folder / WEIGHTS).tensors
    except FileNotFoundError as error:
        raise AdapterError(f"'{folder}' is no adapter: it has no {Path(error.filename or WEIGHTS).name}") from error
    except (OSError, ValueError, ModelError) as error:
        raise AdapterError(f"the adapter in '{folder}' is damaged: {error}") from error
    ranks: dict[str, int] = {}
    embeddings: set[str] = set()
    whole: list[str] = []
    for one in tensors:
        name = one.name.removeprefix("base_model.model.")
        module, _, ending = name.partition(".lora_")
        if ending in ("A.weight", "embedding_A") and one.shape:
            ranks[module] = one.shape[0]
            if ending == "embedding_A" or module.endswith(("lm_head", "embed_tokens", "wte")):
                embeddings.add(module)
        elif not ending and (is_saved_whole(name.rpartition(".")[0], settings) or "trainable_tokens_" in name):
            whole.append(name)
    return Facts(
        settings, ranks, tuple(sorted(embeddings)), tuple(sorted(whole)), settings.get("peft_type") == INT8_TYPE
    )


def judge_facts(facts: Facts, reader: str) -> Verdict:
    """Say the same of an adapter that was read already.

    Args:
        facts: What `read_facts` gives.
        reader: One of `READERS`.
    """
    way, problems, commands = _RULES[reader](facts)
    return Verdict(reader, READERS[reader], way, tuple(problems), tuple(commands))


_Found = tuple[Way, list[str], list[str]]
_MERGE = "peftkit merge ADAPTER merged"
_PORTABLE = "peftkit export ADAPTER portable --to portable"
_GGUF = "peftkit export ADAPTER model.gguf --to gguf"


def _vllm(facts: Facts) -> _Found:
    if found := _never(facts):
        return found
    problems = _not_factors(facts)
    foreign = [name for name in facts.whole if not name.startswith(("score.", "classifier."))]
    if foreign:
        problems.append(f"it takes no '{foreign[0]}' that is saved as a whole, but heads named score or classifier")
    if facts.embeddings:
        problems.append(f"it may not take LoRA on '{facts.embeddings[0]}', and nobody has tried it here")
    if max(facts.ranks.values(), default=1) > VLLM_RANKS[-1]:
        problems.append(f"it takes ranks up to {VLLM_RANKS[-1]}, and the adapter has {max(facts.ranks.values())}")
    return _answer(facts, problems, [])


def _sglang(facts: Facts) -> _Found:
    if found := _never(facts):
        return found
    problems = _not_factors(facts)
    if facts.whole or facts.embeddings:
        problems.append(f"it may not take '{(*facts.whole, *facts.embeddings)[0]}', and nobody has tried it here")
    mendable = ["it multiplies by alpha / r with one alpha for all, so rsLoRA and patterns would be computed wrong"]
    return _answer(facts, problems, mendable if facts.scales_by_setting else [])


def _llama_cpp(facts: Facts) -> _Found:
    if found := _never(facts) or _no_head(facts):
        return found
    problems = _not_factors(facts)
    if facts.whole or facts.embeddings:
        problems.append(f"it takes factors of linear layers alone, and not '{(*facts.whole, *facts.embeddings)[0]}'")
    if problems:
        return "merge", problems, [_GGUF]
    commands = [
        "peftkit export ADAPTER adapter.gguf --to gguf-lora",
        "peftkit export BASE base.gguf --to gguf",
    ]
    return "export", ["it reads GGUF files"], commands


def _mlx(facts: Facts) -> _Found:
    if found := _never(facts) or _no_head(facts):
        return found
    problems = _not_factors(facts)
    if facts.whole or facts.embeddings:
        problems.append(f"it would not take '{(*facts.whole, *facts.embeddings)[0]}', or change embeddings and output")
    if problems:
        return "merge", problems, [_MERGE]
    return "export", ["it reads files of its own, with one rank and scale"], ["peftkit export ADAPTER mlx --to mlx"]


def _ollama(facts: Facts) -> _Found:
    if found := _never(facts) or _no_head(facts):
        return found
    return "merge", ["it no longer makes models from adapters"], ["peftkit export ADAPTER ollama --to ollama"]


_RULES: Mapping[str, Callable[[Facts], _Found]] = {
    "vllm": _vllm,
    "llama.cpp": _llama_cpp,
    "mlx": _mlx,
    "sglang": _sglang,
    "ollama": _ollama,
}


def _answer(facts: Facts, problems: list[str], mendable: list[str]) -> _Found:
    """Choose for a reader of PEFT's folders: merge if anything is wrong that the portable form does not mend."""
    if facts.packed:
        mendable = [*mendable, "its factors are packed integers, which peftkit alone reads"]
    if problems:
        return "merge", [*problems, *mendable], [_MERGE]
    return ("export", mendable, [_PORTABLE]) if mendable else ("as it is", [], [])


def _not_factors(facts: Facts) -> list[str]:
    settings = {**facts.settings, "peft_type": "LORA"} if facts.packed else facts.settings
    reason = why_not_plain(settings)
    return [f"the adapter {reason.partition(';')[0]}"] if reason else []


def _never(facts: Facts) -> _Found | None:
    """Answer for what neither a reader takes nor a merge: prompts, and adapters that depend on the input."""
    kind = facts.settings.get("peft_type")
    for name in ("alora_invocation_tokens", "arrow_config"):
        if facts.settings.get(name):
            return "none", [f"the adapter works by {name}, which can be served by PEFT alone"], []
    if kind in _UNMERGEABLE:
        return "none", [f"the adapter is of the kind {kind}, which can be served by PEFT alone"], []
    return None


def _no_head(facts: Facts) -> _Found | None:
    task = facts.settings.get("task_type")
    if task in ("CAUSAL_LM", None):
        return None
    return "none", [f"the adapter is for {task}, and it serves models that write on"], []


_UNMERGEABLE = (
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "XLORA",
)
