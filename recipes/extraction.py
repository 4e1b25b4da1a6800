"""From a text to JSON: here the fields of generated log lines.

For fields of your own, give each row's text and its JSON, and say in `task.system` what is wanted. The row's own JSON
is the schema of its answer: the same keys, and each value of the same type, or null.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftkit import EmbeddedData, Metric, Recipe
from peftkit.evaluate.metric import Judged, quotient, ratio
from peftkit_recipes.log_lines import FIELDS, rows
from peftkit_recipes.presets import on_gpus, tiny

if TYPE_CHECKING:
    from peftkit.evaluate.metric import Table


def refuse(word: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(word)


def parsed(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None if it is anything else, text around it included."""
    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def facts(text: str) -> set[tuple[str, str]]:
    """Return the fields of a JSON object that are not null, with their values as JSON."""
    told = parsed(text) or {}
    return {(key, json.dumps(value, sort_keys=True)) for key, value in told.items() if value is not None}


def json_type(value: Any) -> type:
    """Return the type of a JSON value; all numbers are of one."""
    return float if type(value) is int else type(value)


def fits(expected: str, answer: str, row: Mapping[str, Any]) -> float:
    """Whether an answer is JSON with the expected keys, each value null or of the expected type."""
    wanted, given = parsed(expected) or {}, parsed(answer)
    if given is None or given.keys() != wanted.keys():
        return 0.0
    pairs = [(given[key], wanted[key]) for key in wanted if None not in (given[key], wanted[key])]
    return float(all(json_type(one) is json_type(other) for one, other in pairs))


def exact(expected: str, answer: str, row: Mapping[str, Any]) -> float:
    """Whether an answer is JSON with all the expected values, and no others."""
    return float(parsed(answer) is not None and facts(answer) == facts(expected))


def f1_sums(judged: Judged) -> "Table":
    """Give twice the right fields, and the expected and answered ones together, of each row."""
    both = [(facts(text), facts(answer.text)) for text, answer in zip(judged.expected, judged.answers, strict=True)]
    return ratio([(2 * len(wanted & given), len(wanted) + len(given)) for wanted, given in both])


recipe = Recipe(
    name="extraction",
    summary="From a text to JSON with fixed fields; from log lines at first.",
    columns={
        "text": ("text", "line", "log", "input", "document", "content", "source"),
        "json": ("json", "fields", "record", "extracted", "output", "answer", "target"),
    },
    metrics=(
        Metric("field_f1", "Field F1", f1_sums, quotient),
        Metric.mean("all_fields", "All fields right", exact),
        Metric.mean("valid_json", "JSON that fits the schema", fits),
    ),
    embedded=EmbeddedData("generated log lines", "log-lines", "Apache-2.0", rows),
    intended_use="Turns a line of text into JSON with the fields it was trained on.",
    defaults={
        "task": {
            "system": f"Extract from the log line as JSON, null for what is missing: {', '.join(FIELDS)}.",
            "prompt": "{text}",
            "completion": "{json}",
        },
        "train": {"max_length": 512},
        "evaluate": {"max_new_tokens": 160},
    },
    presets={"tiny": tiny(train_rows=300, evaluate={"max_rows": 96, "max_new_tokens": 80}), **on_gpus()},
)
