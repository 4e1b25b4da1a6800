"""Files of many rows that chance made of good ones: values of other types, bytes, quotes, brackets, and much else."""

import json
import random
from pathlib import Path

ROWS = 500
KINDS = (".jsonl", ".csv", ".json", ".tsv", ".txt", "chat.jsonl")
RECIPES = {".txt": "completion", "chat.jsonl": "instruct"}
WORDS = ("river", "violin", "harbour", "engine", "good", "awful", "letter", "winter", "é", "🙂", "Grüße", "7919")
PIECES = (
    *(
        '"',
        '""',
        "'",
        ",",
        ";",
        "\t",
        "\\",
        "\\u0000",
        "\\ud800",
        "\\ud83d\\ude42",
        "{",
        "}",
        "[",
        "]",
        ":",
        "null",
        "NaN",
    ),
    *(
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 30,
        "9" * 5000,
        "true",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x0b",
        "\x1c",
        "\0",
        "\x1b[31m",
    ),
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "\ue0000\ue001",
        "\ue000",
        "\ue002",
        "{text}",
        "{label}",
        "[INST]",
    ),
    *(
        " ",
        "",
        "\n",
        "\r",
        "\r\n",
        "=cmd|'/c calc'!A0",
        "../../etc/passwd",
        "x" * 3000,
        "[" * 1500,
        "\u202e",
        "a\u0301",
    ),
)
VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        2**63,
        2**70,
        1.5,
        1e308,
        "",
        " ",
        "a",
        [],
        ["a"],
        [[]],
        {},
        {"a": 1},
        "positive",
        "neg",
    ),
    *("POSITIVE", "\u00a0", "x" * 5000, "\x00", "\ue000", ["positive", "negative"], {"text": "a"}, [{"role": "user"}]),
)


def text(chance) -> str:
    said = " ".join(chance.choice(WORDS) for _ in range(chance.randrange(3, 14)))
    return f"{said} {chance.randrange(10**9)}"


def good(chance, kind: str) -> dict:
    if kind == "chat.jsonl":
        turns = [{"role": ("user", "assistant")[place % 2], "content": text(chance)} for place in range(2)]
        return {"messages": turns * chance.randrange(1, 3)}
    return {"text": text(chance), "label": chance.choice(("positive", "negative"))}


def spoiled(chance, values: dict) -> dict:
    """Change what a row holds."""
    values = json.loads(json.dumps(values))
    inside = values
    while isinstance(inside.get("messages"), list) and chance.random() < 0.8:
        inside = chance.choice(inside["messages"])
    name = chance.choice([*inside])
    kind = chance.randrange(5)
    if kind == 0:
        del inside[name]
    elif kind == 1:
        inside[chance.choice(("text", "label", "role", "content", "tools", "weight", "", "a"))] = chance.choice(VALUES)
    elif kind == 2 and isinstance(inside[name], str):
        inside[name] = inside[name][:5] + chance.choice(PIECES) + inside[name][5:]
    else:
        inside[name] = chance.choice(VALUES)
    return values


def as_record(chance, values: dict, kind: str) -> str:
    if kind == ".txt":
        return str(values.get("text", "")).replace("\n", " ")
    if kind in (".csv", ".tsv"):
        sign = "," if kind == ".csv" else "\t"
        fields = [str(values.get(name, "")) for name in ("text", "label")]
        quoted = ['"' + field.replace('"', '""') + '"' if chance.random() < 0.9 else field for field in fields]
        return sign.join(quoted)
    return json.dumps(values, ensure_ascii=chance.random() < 0.5)


def broken(chance, record: bytes) -> bytes:
    """Change how a row is written."""
    for _ in range(chance.randrange(1, 3)):
        place = chance.randrange(len(record) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            record = record[:place]
        elif kind == 1:
            record = record[:place] + bytes([chance.randrange(256)]) + record[place + 1 :]
        elif kind == 2:
            record = record[:place] + chance.choice(PIECES).encode("utf-8", "surrogatepass") + record[place:]
        else:
            record = record[: place // 2] + record[place:]
    return record


def write_file(seed: int, folder: Path, rows: int = ROWS) -> tuple[Path, str]:
    """Write the file of a seed; return it and the recipe that reads it."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    much = chance.choice((0.02, 0.1, 0.5))  # how many rows are bad
    records = []
    for _ in range(rows):
        values = good(chance, kind)
        if chance.random() < much:
            values = spoiled(chance, values)
        record = as_record(chance, values, kind).encode("utf-8", "surrogatepass")
        # A whole JSON file and a CSV file are lost by one bracket or quote out of place: there it is rarer.
        if chance.random() < (much if kind not in (".json", ".csv", ".tsv") else 0.001):
            record = broken(chance, record)
        records.append(record)
    end = chance.choice((b"\n", b"\n", b"\r\n"))
    content = end.join(records) + end
    if kind == ".json":
        content = b"[" + b",".join(records) + b"]"
    if kind in (".csv", ".tsv"):
        content = (b"text,label" if kind == ".csv" else b"text\tlabel") + end + content
    if chance.random() < 0.05:
        content = broken(chance, content)
    path = folder / f"a{kind if kind.startswith('.') else '.jsonl'}"
    path.write_bytes(content)
    return path, RECIPES.get(kind, "sentiment")


def read_file(seed: int, folder: Path, *, model: Path, rows: int = ROWS) -> dict[str, int]:
    """Check the file of a seed as a run would; return what became of its rows. Only a `DataError` may come out."""
    from peftkit.errors import DataError
    from peftkit.pipeline import check

    path, recipe = write_file(seed, folder, rows)
    words = [f"data.path={path}", f"model.path={model}", "train.max_length=256"]
    skip = ["data.on_bad_row=skip", "data.max_bad_fraction=1"]
    try:
        report = check(recipe, words=[*words, *skip])
    except DataError as error:
        said = str(error)
        assert said
        assert "Traceback" not in said
        return {"tried": rows, "files": 1, "files refused": 1}
    assert report["read"] == report["kept"] + report["truncated"] + report["rejected"]
    assert all(one["reason"] and one["where"] for one in report["rejections"])
    counts = {name: report[name] for name in ("read", "kept", "truncated", "rejected")}
    return {"tried": rows, "files": 1, "files refused": 0, **counts}
