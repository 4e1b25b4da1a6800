"""A small reader of Go's text/template: the actions that a Modelfile's template here is made of, and no others.

Strings, fields of `.` and `$`, `range` with two variables, `if` / `else if` / `else`, `eq`, `and` and `index`; another
test runs the real thing.
"""

import json
import re

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|[^\s()]+')


def render(template: str, data: dict) -> str:
    """Write a template's text for data whose names are those of Ollama."""
    nodes, rest = _parse(_split(template))
    assert not rest
    return _run(nodes, data, {"$": data})


def _split(template):
    """Give text and actions in turn, as (kind, value); a `}}` in a string ends no action."""
    place = 0
    while place < len(template):
        start = template.find("{{", place)
        if start < 0:
            yield "text", template[place:]
            return
        if start > place:
            yield "text", template[place:start]
        end = start + 2
        while template[end : end + 2] != "}}":
            string = re.match(r'"(?:[^"\\]|\\.)*"', template[end:])
            end += string.end() if string else 1
        yield "action", template[start + 2 : end].strip()
        place = end + 2


def _parse(parts, ends=()):
    """Give a list of nodes, and the action that ended it."""
    nodes = []
    parts = iter(parts)
    for kind, value in parts:
        word = value.split(" ", 1)[0] if kind == "action" else ""
        if word in ends:
            return nodes, value
        if word == "range":
            names, pipe = re.fullmatch(r"range (\$\w+, \$\w+) := (.+)", value).groups()
            body, _ = _parse(parts, ("end",))
            nodes.append(("range", names.split(", "), pipe, body))
        elif word == "if":
            nodes.append(_branches(value.removeprefix("if "), parts))
        else:
            nodes.append((kind, value))
    assert not ends, f"no {ends}"
    return nodes, ""


def _branches(condition, parts):
    body, end = _parse(parts, ("else", "end"))
    if end == "end":
        return "if", condition, body, []
    if end == "else":
        return "if", condition, body, _parse(parts, ("end",))[0]
    return "if", condition, body, [_branches(end.removeprefix("else if "), parts)]


def _run(nodes, dot, names):
    text = ""
    for kind, *rest in nodes:
        if kind == "text":
            text += rest[0]
        elif kind == "action":
            text += str(_value(rest[0], dot, names))
        elif kind == "if":
            condition, body, other = rest
            text += _run(body if _value(condition, dot, names) else other, dot, names)
        else:
            (number, element), pipe, body = rest
            for place, one in enumerate(_value(pipe, dot, names)):
                text += _run(body, one, {**names, number: place, element: one})
    return text


def _value(expression, dot, names):
    words = _WORD.findall(expression)
    found, rest = _command(words, dot, names)
    assert not rest, rest
    return found


def _command(words, dot, names):
    """Evaluate words up to a closing parenthesis."""
    values = []
    function = words[0] if words[0] in ("eq", "and", "index") else None
    words = words[1:] if function else words
    while words and words[0] != ")":
        word, words = words[0], words[1:]
        if word == "(":
            value, words = _command(words, dot, names)
            assert words[0] == ")"
            words = words[1:]
        else:
            value = _term(word, dot, names)
        if words and words[0].startswith(".") and word == "(":
            value, words = value[words[0][1:]], words[1:]
        values.append(value)
    if function == "eq":
        assert type(values[0]) is type(values[1])  # Go refuses to compare unlike types
        return values[0] == values[1], words
    if function == "and":
        return all(values) and values[-1], words
    if function == "index":
        return values[0][values[1]], words
    (value,) = values
    return value, words


def _term(word, dot, names):
    if word.startswith('"'):
        return json.loads(word)
    if word.isdigit():
        return int(word)
    name, *fields = word.split(".")
    value = names[name] if name else dot
    for field in fields:
        value = value[field]
    return value
