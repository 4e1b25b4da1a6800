"""The turns of a conversation: roles and contents in one form, whatever their source called them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.data.rows import shown

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""Who speaks: the names that files use, and those of chat templates."""

_READ_HERE = {"role", "content", "from", "value", "tool_calls"}


class BadMessages(Exception):
    """What is wrong with a conversation."""


def checked_messages(turns: Sequence[Any]) -> list[dict[str, Any]]:
    """Return turns as `{"role", "content"}` with all that they hold beside.

    Raises:
        BadMessages: A turn cannot be used, or none is the assistant's.
    """
    messages = _messages(turns)
    if not any(one["role"] == "assistant" and one.get("weight") != 0 for one in messages):
        raise BadMessages("no turn is the assistant's, so nothing would be learned")
    return messages


def asked_messages(turns: Sequence[Any]) -> list[dict[str, Any]]:
    """Return turns as `checked_messages` does, of a conversation whose next turn is the assistant's.

    Raises:
        BadMessages: A turn cannot be used, or the last one asks nothing.
    """
    messages = _messages(turns)
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise BadMessages("the last turn must be the user's, so that there is something to answer")
    return messages


def _messages(turns: Sequence[Any]) -> list[dict[str, Any]]:
    if not turns:
        raise BadMessages("the conversation is empty")
    messages = [_message(turn, f"turn {number}") for number, turn in enumerate(turns, 1)]
    return [one for one in messages if one["role"] != "system" or one["content"].strip()]


def speaker_of(turn: Mapping[str, Any]) -> str:
    """Return what a turn calls its speaker, in lower case; empty where it names none."""
    speaker = turn.get("role") or turn.get("from")
    return speaker.strip().casefold() if isinstance(speaker, str) else ""


def parsed(value: Any, *, drop_none: bool = False) -> Any:
    """Return what a text of JSON holds, as CSV writes lists and objects; other values as they are.

    Args:
        value: Any value of a row.
        drop_none: Leave out members of objects that are null. Typed tables have every member in every row, and a
            template takes a member that is null for one that is there.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return _without_none(value) if drop_none else value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(member) for name, member in value.items() if member is not None}
    return [_without_none(member) for member in value] if isinstance(value, list) else value


def checked_tools(value: Any) -> list[dict[str, Any]]:
    """Return descriptions of tools as transformers and OpenAI write them, each inside `function`.

    Raises:
        BadMessages: It is no list of objects.
    """
    tools = parsed(value, drop_none=True) or []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadMessages("tools is not a list of objects")
    return [{"type": "function", "function": tool} if "name" in tool else dict(tool) for tool in tools]


def _message(turn: Any, place: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise BadMessages(f"{place} is not an object with role and content")
    speaker = speaker_of(turn)
    role = ROLES.get(speaker)
    if role is None:
        found = f"the role {shown(speaker)}" if speaker else "no role"
        raise BadMessages(f"{place} has {found}; the roles are system, user, assistant and tool")
    said: Any = turn["value"] if turn.get("content") is None and "value" in turn else turn.get("content")
    calls = parsed(turn.get("tool_calls"), drop_none=True) or []
    if speaker == "function_call":
        said, calls = "", parsed(said)
    calls = [calls] if isinstance(calls, Mapping) else calls
    message = {name: value for name, value in turn.items() if name not in _READ_HERE and value is not None}
    message |= {"role": role, "content": _content(said, role, place)}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise BadMessages(f"{place}: tool_calls is not a list of the assistant's calls")
        message["tool_calls"] = [_call(call, place) for call in calls]
    if role in ("user", "assistant") and not message["content"].strip() and not calls:
        raise BadMessages(f"{place} ({role}) is empty")
    return message


def _content(said: Any, role: str, place: str) -> str:
    if said is None:
        return ""
    if isinstance(said, list) and all(isinstance(part, Mapping) and "type" in part for part in said):
        for part in said:
            if part["type"] not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
                raise BadMessages(f"{place} holds a part of type {shown(str(part['type']))}; only text can be learned")
        return "".join(part["text"] for part in said)
    if isinstance(said, str):
        return said
    if role == "tool":  # what a tool gives back is often an object
        return json.dumps(said, ensure_ascii=False)
    raise BadMessages(f"{place} ({role}): the content is {type(said).__name__}, not text")


def _call(call: Any, place: str) -> dict[str, Any]:
    """Return a call as chat templates take it: a function's name, and its arguments as an object, not as JSON."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadMessages(f"{place}: a call in tool_calls names no function")
    arguments = parsed(function.get("arguments") or {})
    if not isinstance(arguments, Mapping):
        raise BadMessages(f"{place}: the arguments of {shown(function['name'])} are no JSON object")
    named = {"name": function["name"], "arguments": dict(arguments)}
    return {"type": "function", **({"id": call["id"]} if "id" in call else {}), "function": named}
