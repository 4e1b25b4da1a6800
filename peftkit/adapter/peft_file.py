"""`adapter_config.json` as somebody may have sent it: read strictly, before PEFT sees it.

PEFT builds what this file says: modules of any rank, found by any pattern, at times after importing a module or loading
a file that it names. Every command that opens an adapter reads it here, so that it is checked in one place. What PEFT's
methods mean by their settings is left to PEFT.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from peftkit.adapter.patterns import MOST_WAYS, require_quick
from peftkit.errors import AdapterError

MOST_BYTES = 1 << 22
"""Bytes of the file; an adapter that names each of 20,000 experts twice has a quarter of it."""
MOST_SIZE = 1 << 16
"""Largest rank, number of tokens, or width of a part that an adapter adds."""
_MOST_ENTRIES = 100_000  # of all lists and tables together
_MOST_PATTERNS = 10_000  # each is tried on each module
_MOST_LAYERS = 4096
_DEEPEST = 6
_LONGEST_NAME = 1024
_LONGEST_TEXT = 1 << 16
_LARGEST_NUMBER = 2**53  # what every reader of JSON holds exactly
_IMPORTED_FROM = ("transformers", "diffusers")  # libraries whose classes PEFT names in auto_mapping

_TEXTS = {"peft_type", "task_type", "base_model_name_or_path", "revision", "bias", "peft_version"}
_SWITCHES = {
    *("inference_mode", "use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "ensure_weight_tying", "use_qalora"),
}
_NUMBERS = {"lora_alpha", "lora_dropout", "alpha", "dropout"}
_NAMES = {"target_modules", "exclude_modules", "feedforward_modules"}  # a pattern, or a list of names
_PATTERNS = {"modules_to_save", "layers_pattern"}  # a pattern, or a list of patterns
_SIZES = re.compile(
    r"r|\w+_r|\w*rank|num_\w+|n_(?:skills|splits|tasks)|\w+_(?:size|dim|layers|heads)|vector_length|token_dim"
)
_FILES = {"cache_file", "covariance_file", "prompt_tuning_init_state_dict_path", "adapters"}
_NOT_IN_FILES = ("runtime_config",)  # PEFT leaves it out when it reads a file


def read_peft_settings(path: Path) -> dict[str, Any]:
    """Read an adapter's `adapter_config.json`.

    Args:
        path: The file.

    Returns:
        Its content. `auto_mapping`, by which PEFT would import a module, is left out.

    Raises:
        FileNotFoundError: There is none.
        AdapterError: It is damaged, or says what no adapter needs: names of modules to import or files to load, sizes
            that nobody has, patterns whose search does not end.
    """
    settings = read_settings(path)
    for name, value in settings.items():
        if value is not None:
            _check(path, name, value)
    _require_quick_patterns(path, settings)
    return {name: value for name, value in settings.items() if name not in ("auto_mapping", *_NOT_IN_FILES)}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a table of JSON with bounds on all that can be large, each name once, and numbers that are numbers.

    Args:
        path: The file: `adapter_config.json` of whichever program.

    Raises:
        FileNotFoundError: There is none.
        AdapterError: It is damaged, or deep, long or numerous beyond use.
    """
    try:
        if path.exists() and not path.is_file():
            raise _refused(path, "is no plain file")
        if path.stat().st_size > MOST_BYTES:
            raise _refused(path, f"has {path.stat().st_size} bytes, and {MOST_BYTES} are read at most")
        settings = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_table(path),
            parse_constant=_no_number(path),
            parse_int=_whole_number(path),
            parse_float=_number(path),
        )
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else f"cannot be read: {error}"
        raise _refused(path, why) from error
    if not isinstance(settings, dict):
        raise _refused(path, "holds no settings")
    _require_bounded(path, settings)
    return settings


def require_ranks_in(settings: Mapping[str, Any], largest: int, folder: Path) -> None:
    """Refuse large ranks of which the weights know nothing: PEFT would make room for them first.

    Args:
        settings: What `read_peft_settings` gave.
        largest: The longest side of a tensor in the weights.
        folder: The adapter's folder.

    Raises:
        AdapterError: There is such a rank.
    """
    pattern = settings.get("rank_pattern")
    named = [settings.get("r"), settings.get("init_r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    for rank in named:
        if isinstance(rank, int) and rank > max(1024, largest):
            raise AdapterError(
                f"the adapter in '{folder}' is refused: adapter_config.json has a rank of {rank}, and no tensor in the "
                "weights is so long; fetch it again"
            )


def _table(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise _refused(path, f"has {_shown(twice)} twice")
        return found

    return table


def _no_number(path: Path) -> Callable[[str], Any]:
    def constant(word: str) -> Any:
        raise _refused(path, f"holds {word}, which is no number")

    return constant


def _whole_number(path: Path) -> Callable[[str], int]:
    def whole(digits: str) -> int:
        if len(digits) > 17 or abs(int(digits)) > _LARGEST_NUMBER:
            raise _refused(path, f"holds a number of {len(digits)} digits")
        return int(digits)

    return whole


def _number(path: Path) -> Callable[[str], float]:
    def number(digits: str) -> float:
        value = float(digits) if len(digits) <= 64 else math.inf
        if not math.isfinite(value):
            raise _refused(path, f"holds {digits[:20]}, which is too large")
        return value

    return number


def _require_bounded(path: Path, settings: dict[str, Any]) -> None:
    """Refuse what is deep, long or numerous beyond use."""
    entries = 0
    waiting: list[tuple[Any, int]] = [(settings, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict):
            for name in value:
                if len(name) > _LONGEST_NAME:
                    raise _refused(path, f"has a name of {len(name)} characters")
        elif isinstance(value, str) and len(value) > _LONGEST_TEXT:
            raise _refused(path, f"holds a text of {len(value)} characters")
        if isinstance(value, dict | list):
            entries += len(value)
            if depth > _DEEPEST:
                raise _refused(path, "is nested too deeply")
            if entries > _MOST_ENTRIES:
                raise _refused(path, f"has more than {_MOST_ENTRIES} entries")
            waiting += [(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value)]


def _check(path: Path, name: str, value: Any) -> None:
    """Check one setting by its name."""
    if name == "auto_mapping":
        _require_known_library(path, value)
    elif name == "megatron_config" or (name == "megatron_core" and value != "megatron.core"):
        raise _refused(path, f"has {name}, by which a module of that name would be imported; only plain models are")
    elif name == "layer_replication":
        _require_few_layers(path, value)
    elif name in _TEXTS:
        _require(path, name, value, isinstance(value, str) and value.isprintable(), "is no plain text")
        _require(path, name, value, len(value) <= _LONGEST_NAME, "is too long")
    elif name in _SWITCHES or (name.startswith("use_") and isinstance(value, bool)):
        _require(path, name, value, isinstance(value, bool), "is neither true nor false")
    elif name in _NUMBERS:
        _require(path, name, value, _is_number(value), "is no number")
    elif name in _NAMES | _PATTERNS:
        texts = value if isinstance(value, list) else [value]
        _require(path, name, value, all(isinstance(one, str) for one in texts), "is no list of names, and no pattern")
    elif name.endswith("_pattern"):
        _require(path, name, value, isinstance(value, dict), "is no table of names and numbers")
        for number in value.values():
            parts = number if isinstance(number, list) else [number]
            good = all(_is_number(one) or isinstance(one, bool) for one in parts)
            _require(path, name, number, good, "is no number")
            if name == "rank_pattern" and not isinstance(number, list):
                _require_size(path, name, number)
    elif _SIZES.fullmatch(name) and isinstance(value, int | float | str):
        _require_size(path, name, value)
    for word, inside in _inside(name, value):
        if word in _FILES and inside:
            raise _refused(
                path, f"has {word}, a file that would be loaded; an adapter's own two files are all it needs"
            )


def _inside(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Give each setting with its value, those in tables too."""
    yield name, value
    for word, inside in value.items() if isinstance(value, dict) else ():
        yield from _inside(word, inside)


def _require_size(path: Path, name: str, value: Any) -> None:
    good = not isinstance(value, bool | str) and 0 <= value <= MOST_SIZE
    _require(path, name, value, good or value == -1, f"is no size from 0 to {MOST_SIZE}")


def _require_known_library(path: Path, value: Any) -> None:
    library = value.get("parent_library") if isinstance(value, dict) else value
    known = isinstance(library, str) and library.split(".")[0] in _IMPORTED_FROM
    if not (known or (isinstance(value, dict) and library is None)):
        raise _refused(path, f"has auto_mapping, by which {_shown(library)} would be imported")


def _require_few_layers(path: Path, value: Any) -> None:
    pairs = value if isinstance(value, list) else [value]
    good = all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(one) is int for one in pair)
        and 0 <= pair[0] <= pair[1] <= _MOST_LAYERS
        for pair in pairs
    )
    if not good or sum(end - start for start, end in pairs) > _MOST_LAYERS:
        raise _refused(path, f"has layer_replication={_shown(value)}, which is no list of ranges of layers")


def _require_quick_patterns(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse patterns that are tried on each module and take long, one by one or together."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if name in _NAMES and isinstance(value, str):
            found.append((name, value))
        elif name in _PATTERNS and value is not None:
            found += [(name, one) for one in ([value] if isinstance(value, str) else value)]
        elif name.endswith("_pattern") and isinstance(value, dict):
            found += [(name, key) for key in value]
    if len(found) > _MOST_PATTERNS:
        raise _refused(path, f"has {len(found)} patterns, and {_MOST_PATTERNS} are read at most")
    ways = 0.0
    for name, pattern in found:
        try:
            own = require_quick(pattern)
        except ValueError as error:
            raise _refused(path, f"has {_shown(pattern)} in {name}, which {error}") from error
        ways += own if own > 1 else 0
        if ways > 2 * MOST_WAYS:
            raise _refused(path, f"has patterns in {name} whose search could take very long together")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(path: Path, name: str, value: Any, good: bool, why: str) -> None:
    if not good:
        raise _refused(path, f"has {name}={_shown(value)}, which {why}")


def _shown(value: Any) -> str:
    """Return a value that may be anything, short and on one line."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 60 else f"{value[:60]}...")
    return "[...]" if isinstance(value, dict | list) else json.dumps(value)


def _refused(path: Path, why: str) -> AdapterError:
    return AdapterError(f"the adapter in '{path.parent}' is damaged: {path.name} {why}; fetch it again")
