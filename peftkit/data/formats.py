"""Conversations as people's files hold them: which format a source has, and its rows as lists of messages.

| format | columns |
| --- | --- |
| `messages` | a list of `{"role", "content"}`, as OpenAI and transformers write it; `tools`, `tool_calls` |
| `sharegpt` | a list of `{"from", "value"}`; `system`, `tools` |
| `alpaca` | `instruction` and `output`; `input`, `system`, `history` |
| `prompt_completion` | a question and an answer, by one of their usual names; `system` |
| `text` | a conversation that is written out, with `User:` and `Assistant:` (or `### Human:`, ...) or ChatML's tags |

Plain text is no conversation: it cannot be said which part of it the assistant wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit.data.messages import ROLES, BadMessages, checked_messages, checked_tools, parsed, speaker_of
from peftkit.data.rows import BadRow, Row, shown
from peftkit.errors import DataError

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
_ASKED = ("prompt", "question", "query", "input", "user", "human")
_ANSWERED = ("completion", "response", "answer", "output", "reply", "assistant")
_SYSTEM = ("system", "system_prompt", "system_message")
_CONTEXT = ("input", "context")
_OUTPUT = ("output", "response")
_TEXT = ("text", "content", "conversation", "dialogue", "chat")
_NAMES = r"system|user|human|assistant|gpt|bot"
_SPEAKER = re.compile(rf"^[ \t]*(?:#+[ \t]*)?({_NAMES})[ \t]*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)\s*", re.DOTALL)
_BOTS = {"gpt", "bot", "assistant"}


def detect_format(row: Row) -> str:
    """Name the format of a source by its first row.

    Raises:
        DataError: It is none that is known.
    """
    columns = _by_name(row)
    for name in _LISTS:
        turns = parsed(columns.get(name))
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            return "sharegpt" if "from" in turns[0] else "messages"
    if "instruction" in columns and _first(columns, _OUTPUT) is not None:
        return "alpaca"
    if _first(columns, _ASKED) is not None and _first(columns, _ANSWERED) is not None:
        return "prompt_completion"
    text = columns.get(_first(columns, _TEXT) or "")
    if isinstance(text, str) and len(list(_written_turns(text))) > 1:
        return "text"
    raise DataError(
        f"{row.where} holds no conversation in its columns {', '.join(map(shown, row.values))}: give messages, "
        "conversations, instruction and output, or prompt and completion; for plain text take recipe 'completion'"
    )


def conversation_of(row: Row, format: str) -> Row | BadRow:
    """Return a row with `messages`, and `tools` where it has any; what cannot be used of it costs the row.

    Args:
        row: A row as it was read.
        format: One of the formats; `columns` for a conversation in a column that was named by hand.

    Returns:
        `messages`, a list of `{"role", "content"}` with at least one turn of the assistant's; the roles are system,
        user, assistant and tool, the contents text, and `tool_calls` have their arguments as objects, as chat templates
        take them. Columns of other names are left out.
    """
    columns = _by_name(row)
    try:
        messages = checked_messages(list(_READERS[format](columns)))
        tools = checked_tools(columns.get("tools"))
    except BadMessages as error:
        return BadRow(row.where, None, str(error))
    return Row(row.where, {"messages": messages, "tools": tools} if tools else {"messages": messages})


def _by_name(row: Row) -> dict[str, Any]:
    return {name.strip().casefold(): value for name, value in row.values.items()}


def _first(columns: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of these names that the row has a value for."""
    return next((name for name in names if columns.get(name) not in (None, "")), None)


def _required(columns: Mapping[str, Any], names: Sequence[str]) -> Any:
    name = _first(columns, names)
    if name is None:
        raise BadMessages(f"no value in {' or '.join(names)}")
    return columns[name]


def _system(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    name = _first(columns, _SYSTEM)
    return [{"role": "system", "content": columns[name]}] if name else []


def _pair(asked: Any, answered: Any) -> list[Any]:
    """Return a question and its answer as turns; each can be a list of messages already, as TRL writes them."""
    turns: list[Any] = []
    for role, said in (("user", asked), ("assistant", answered)):
        several = parsed(said)
        is_list = isinstance(several, list) and any(isinstance(turn, Mapping) for turn in several)
        turns += several if is_list else [{"role": role, "content": said}]
    return turns


def _listed(columns: Mapping[str, Any]) -> Iterator[Any]:
    turns = parsed(_required(columns, _LISTS))
    if not isinstance(turns, list):
        raise BadMessages("the conversation is not a list of messages")
    first = turns[0] if turns and isinstance(turns[0], Mapping) else {}
    if ROLES.get(speaker_of(first)) != "system":
        yield from _system(columns)
    yield from turns


def _alpaca(columns: Mapping[str, Any]) -> Iterator[Any]:
    yield from _system(columns)
    for pair in parsed(columns.get("history")) or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadMessages("history is not a list of pairs of question and answer")
        yield from _pair(*pair)
    context = _first(columns, _CONTEXT)
    asked = [_required(columns, ("instruction",)), *([columns[context]] if context else [])]
    if not all(isinstance(part, str) for part in asked):
        raise BadMessages("instruction or input is not text")
    yield from _pair("\n\n".join(asked), _required(columns, _OUTPUT))


def _prompt_completion(columns: Mapping[str, Any]) -> Iterator[Any]:
    yield from _system(columns)
    yield from _pair(_required(columns, _ASKED), _required(columns, _ANSWERED))


def _text(columns: Mapping[str, Any]) -> Iterator[Any]:
    text = _required(columns, _TEXT)
    turns = list(_written_turns(text)) if isinstance(text, str) else []
    if not turns:
        raise BadMessages("the text does not begin with User: or another speaker, so nobody knows who says what")
    yield from turns


def _written_turns(text: str) -> Iterator[dict[str, str]]:
    """Cut a conversation that is written out; of a text that does not begin with a speaker or tag, nothing."""
    pattern = _TAG if text.lstrip().startswith("<|im_start|>") else _SPEAKER
    found = list(pattern.finditer(text))
    if not found or text[: found[0].start()].strip():
        return
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=True):
        said = match[2] if pattern is _TAG else text[match.end() : end]
        speaker = match[1].lower()
        yield {"role": "assistant" if speaker in _BOTS else speaker, "content": said.strip()}


_READERS = {
    "columns": _listed,
    "messages": _listed,
    "sharegpt": _listed,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _text,
}
