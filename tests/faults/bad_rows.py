"""Files and rows that people get wrong, each with the one outcome that is declared for it.

A file is refused as a whole (`Refused`), or its bad rows are set aside with a reason and the others are kept (`Rows`).
With `data.on_bad_row=error` the first of these reasons is the error.
"""

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
from pyarrow import feather, parquet

from peftkit.errors import DataError
from peftkit.pipeline import check

MAX_LENGTH = 256
_WORDS = ("river", "violin", "harbour", "engine", "garden", "letter", "winter", "copper")


@dataclass(frozen=True)
class Refused:
    """The whole source is refused, with these words."""

    says: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """How many rows are kept and cut, and the reason for each one that is set aside, by its place in the file."""

    kept: int
    truncated: int = 0
    rejected: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is put into a folder, the name of the source in it, and how that ends."""

    make: Callable[[Path], object]
    source: str
    outcome: Refused | Rows
    recipe: str = "sentiment"
    words: tuple[str, ...] = ()


def row(number: int) -> dict[str, str]:
    words = " ".join(f"{word}{number * 7919 + place}" for place, word in enumerate(_WORDS))
    return {"text": f"{words}, all in all", "label": ("positive", "negative")[number % 2]}


def chat(number: int) -> dict[str, list]:
    said = row(number)["text"]
    return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": f"Yes, {number}."}]}


def as_lines(*values) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


GOOD = 24
GOOD_LINES = as_lines(*map(row, range(GOOD)))
GOOD_CHATS = as_lines(*map(chat, range(GOOD)))
GOOD_CSV = b"text,label\n" + b"".join(f'"{row(n)["text"]}",{row(n)["label"]}\n'.encode() for n in range(GOOD))
GOOD_ARRAY = json.dumps([row(number) for number in range(GOOD)]).encode()
BAD_LINE = f"a.jsonl:{GOOD + 1}"


def written(content: bytes, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def refused(content: bytes, *says: str, name: str = "a.jsonl", **more) -> Case:
    return Case(written(content, name), name, Refused((name, *says)), **more)


def line(content: bytes, reason: str) -> Case:
    """A bad line behind good ones."""
    return Case(written(GOOD_LINES + content + b"\n", "a.jsonl"), "a.jsonl", Rows(GOOD, 0, {BAD_LINE: reason}))


def taken(content: bytes, rows: int, truncated: int = 0) -> Case:
    """Lines behind good ones that are good too, or are cut."""
    return Case(written(GOOD_LINES + content, "a.jsonl"), "a.jsonl", Rows(GOOD + rows, truncated))


def text(value: object, label: object = "positive", **more) -> bytes:
    return as_lines({"text": value, "label": label, **more}).rstrip(b"\n")


def turns(messages: object, reason: str) -> Case:
    """A bad conversation behind good ones."""
    content = GOOD_CHATS + as_lines({"messages": messages})
    return Case(written(content, "a.jsonl"), "a.jsonl", Rows(GOOD, 0, {BAD_LINE: reason}), "instruct")


def chats(*conversations: object, truncated: int = 0) -> Case:
    content = GOOD_CHATS + as_lines(*({"messages": one} for one in conversations))
    whole = len(conversations) - truncated
    return Case(written(content, "a.jsonl"), "a.jsonl", Rows(GOOD + whole, truncated), "instruct")


def csv(content: bytes, outcome: Refused | Rows, name: str = "a.csv") -> Case:
    return Case(written(content, name), name, outcome)


def table(columns: dict, change: Callable[[bytes], bytes] = lambda content: content) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), out)
    return change(out.getvalue())


def good_columns() -> dict[str, list[str]]:
    rows = [row(number) for number in range(GOOD)]
    return {name: [one[name] for one in rows] for name in ("text", "label")}


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, GOOD_LINES)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a.jsonl")
        entry.size = len(GOOD_LINES)
        archive.addfile(entry, io.BytesIO(GOOD_LINES))
    return out.getvalue()


def loop(folder: Path) -> None:
    (folder / "a.jsonl").symlink_to(folder / "b.jsonl")
    (folder / "b.jsonl").symlink_to(folder / "a.jsonl")


def arrow(folder: Path) -> None:
    feather.write_feather(pyarrow.table(good_columns()), folder / "a.feather")
    whole = (folder / "a.feather").read_bytes()
    (folder / "a.feather").write_bytes(whole[: len(whole) // 2])


USER = {"role": "user", "content": "What of it?"}
ANSWER = {"role": "assistant", "content": "It is so."}

FILES = {
    "empty": refused(b"", "holds no rows"),
    "one line end": refused(b"\n", "holds no rows"),
    "blanks": refused(b"  \r\n \t\n", "holds no rows"),
    "byte order mark alone": refused(b"\xef\xbb\xbf", "holds no rows"),
    "UTF-32": refused(GOOD_LINES.decode().encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
    "UTF-16 without a mark": refused(GOOD_LINES.decode().encode("utf-16-le"), "UTF-16 text without a byte order mark"),
    "binary": refused(b"\0\1\2\3" * 100, "is a binary file"),
    "gzip by another name": refused(gzip.compress(GOOD_LINES), "is a gzip file (name it .gz)"),
    "zip": refused(zipped("a.jsonl"), "is a zip or Excel file"),
    "zip that climbs out": refused(zipped("../../a.jsonl"), "is a zip or Excel file"),
    "Excel as CSV": refused(zipped("xl/workbook.xml"), "is a zip or Excel file", name="a.csv"),
    "old Excel as CSV": refused(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "is an old Excel", name="a.csv"),
    "tar": refused(tarred(), "is a tar archive"),
    "tar as CSV": refused(tarred(), "is a tar archive", name="a.csv"),
    "bzip2": refused(b"BZh91AY&SY\x00\x01", "is a bzip2 file"),
    "xz": refused(b"\xfd7zXZ\x00\x00\x04", "is an xz file"),
    "PDF": refused(b"%PDF-1.7\n%\xe2\xe3\n", "is a PDF file"),
    "database": refused(b"SQLite format 3\0" + b"\0" * 84, "is an SQLite database", "sql:sqlite:///"),
    "Parquet as CSV": refused(table(good_columns()), "is a Parquet file (name it .parquet)", name="a.csv"),
    "gzip that is cut off": refused(gzip.compress(GOOD_LINES)[:-40], "is cut off", name="a.jsonl.gz"),
    "gzip that is none": refused(GOOD_LINES, "no gzip file", name="a.jsonl.gz"),
    "empty gzip": refused(b"", "is cut off or no gzip file", name="a.jsonl.gz"),
    "gzip bomb": refused(gzip.compress(b"\n" * 150_000_000, 9), "times its size", name="a.jsonl.gz"),
    "Zstandard that is none": refused(GOOD_LINES, "no Zstandard file", name="a.jsonl.zst"),
    "Zstandard that is cut off": refused(b"(\xb5/\xfd\x04\x00", "no Zstandard file", name="a.jsonl.zst"),
    "no ending": refused(GOOD_LINES, "is in no format that peftkit reads", name="rows"),
    "another ending": refused(GOOD_LINES, "is in no format that peftkit reads", name="a.xlsx"),
    "Parquet that is cut off": refused(table(good_columns())[:-20], "is damaged", name="a.parquet"),
    "Parquet that is none": refused(GOOD_LINES, "is damaged or no Parquet file", name="a.parquet"),
    "empty Parquet": refused(b"", "is damaged or no Parquet file", name="a.parquet"),
    "damaged Parquet": refused(
        table(good_columns(), lambda whole: whole[:4] + b"\xff" * 12 + whole[16:]), "is damaged", name="a.parquet"
    ),
    "Parquet without rows": refused(table({"text": [], "label": []}), "holds no rows", name="a.parquet"),
    "Arrow that is cut off": Case(arrow, "a.feather", Refused(("a.feather", "is damaged"))),
    "no file": Case(lambda folder: None, "a.jsonl", Refused(("a.jsonl is not there",))),
    "link to itself": Case(loop, "a.jsonl", Refused(("a.jsonl is a link that leads nowhere",))),
    "link to nowhere": Case(
        lambda folder: (folder / "a.jsonl").symlink_to(folder / "gone.jsonl"), "a.jsonl", Refused(("leads nowhere",))
    ),
    "file that cannot be read": Case(
        lambda folder: (folder / "a.jsonl").symlink_to("/proc/self/mem"),
        "a.jsonl",
        Refused(("a.jsonl cannot be read (Input/output error)",)),
    ),
    "pipe": Case(lambda folder: os.mkfifo(folder / "a.jsonl"), "a.jsonl", Refused(("is not a regular file",))),
    "device": Case(lambda folder: (folder / "a.jsonl").symlink_to("/dev/zero"), "a.jsonl", Refused(("is not a reg",))),
    "folder with an ending": Case(lambda folder: (folder / "a.jsonl").mkdir(), "a.jsonl", Refused(("holds no data",))),
    "JSON that is empty": refused(b" ", "is empty", name="a.json"),
    "JSON that is cut off": refused(GOOD_ARRAY[:-30], "is not JSON", "column", name="a.json"),
    "JSON with more behind": refused(GOOD_ARRAY + b"[]", "is not JSON: Extra data", name="a.json"),
    "JSON of a number": refused(b"5", "is neither an array of objects", name="a.json"),
    "JSON of two arrays": refused(b'{"a": [], "b": []}', "nor an object with one array", name="a.json"),
    "lines named as JSON": refused(GOOD_LINES, "holds more than one JSON value", "name the file .jsonl", name="a.json"),
    "JSON without rows": refused(b"[]", "holds no rows", name="a.json"),
    "JSON nested deeply": refused(b"[" * 100_000, "is nested too deeply", name="a.json"),
    "array as lines": Case(
        written(GOOD_ARRAY, "a.jsonl"), "a.jsonl", Refused(("a.jsonl:1: an array instead of an object",))
    ),
    "CSV that is empty": refused(b"", "is empty", name="a.csv"),
    "CSV without rows": refused(b"text,label\n", "has a header but no rows", name="a.csv"),
    "CSV without names": refused(b",text,label\n0,a,positive\n", "gives no name to column 1", name="a.csv"),
    "CSV with a name twice": refused(b"text,text\na,b\n", "has 2 columns named 'text'", name="a.csv"),
    "CSV with semicolons": refused(b"text;label\na;positive\n", "separated by ';'", name="a.csv"),
    "CSV with tabs": refused(b"text\tlabel\na\tpositive\n", r"separated by '\t'", name="a.csv"),
    "CSV with a quote that stays open": refused(GOOD_CSV + b'"a,positive\n', "that does not end", name="a.csv"),
    "CSV with other columns": refused(b"a,b\nx,positive\n", "known as 'text'", "data.columns.text=", name="a.csv"),
    "text without text": refused(b" \n\n", "holds no text", name="a.txt", recipe="completion"),
    "all rows bad": refused(b"{\n" * 5, ":1: not JSON"),
    "one label": Case(
        written(as_lines(*({**row(number), "label": "x"} for number in range(9))), "a.jsonl"),
        "a.jsonl",
        Refused(("the label 'x' alone",)),
        "classification",
    ),
    "prompt longer than the longest row": refused(
        GOOD_LINES, "the prompt needs", "raise train.max_length", words=("train.max_length=20",)
    ),
}

LINES = {
    "no JSON": line(b"good film, positive", "not JSON"),
    "JSON that is cut off in a line": line(b'{"text": "good', "not JSON"),
    "quotes of Python": line(b"{'text': 'good', 'label': 'positive'}", "not JSON"),
    "array": line(b'["good", "positive"]', "an array instead of an object"),
    "number": line(b"5", "a number instead of an object"),
    "word": line(b'"good"', "text instead of an object"),
    "null": line(b"null", "null instead of an object"),
    "true": line(b"true", "true or false instead of an object"),
    "two values": line(text("a") + text("b"), "more than one JSON value"),
    "other columns": line(b'{"review": "good", "label": "positive"}', "missing"),
    "no text": line(b'{"label": "positive"}', "missing"),
    "null text": line(text(None), "missing"),
    "list as text": line(text(["a", "b"]), "an array, not text"),
    "object as text": line(text({"a": 1}), "an object, not text"),
    "empty text": line(text(""), "empty"),
    "blank text": line(text(" \t\u00a0\u2003 "), "empty"),
    "null label": line(text("a", None), "missing"),
    "unknown label": line(text("a", "good"), "'good' is not one of negative, positive"),
    "number as label": line(text("a", 1), "'1' is not one of"),
    "invalid UTF-8 at the start": line(b"\xff" + text("a"), "byte 1 of the line is not valid UTF-8"),
    "invalid UTF-8 in the middle": line(b'{"text": "caf\xe9", "label": "positive"}', "byte 14 of the line"),
    "invalid UTF-8 at the end": line(text("a") + b"\xc3", "is not valid UTF-8"),
    "surrogate as bytes": line(b'{"text": "\xed\xa0\x80", "label": "positive"}', "is not valid UTF-8"),
    "half a surrogate pair": line(b'{"text": "\\ud83d", "label": "positive"}', "half of a surrogate pair"),
    "NUL as a byte": line(b'{"text": "a\x00b", "label": "positive"}', "not JSON: Invalid control character"),
    "NaN": line(b'{"text": NaN, "label": "positive"}', "NaN is not a JSON number"),
    "infinite": line(b'{"text": -Infinity, "label": "positive"}', "-Infinity is not a JSON number"),
    "number out of range": line(b'{"text": 1e999, "label": "positive"}', "is out of range"),
    "number of 5,000 digits": line(b'{"text": ' + b"9" * 5000 + b', "label": "positive"}', "is out of range"),
    "key twice": line(b'{"text": "a", "text": "b", "label": "positive"}', "key 'text' stands more than once"),
    "nested deeply": line(b'{"text": ' + b"[" * 100_000, "nested too deeply"),
    "longer than 10 MB": line(text("a" * 10_000_001), "longer than 10,000,000 bytes"),
    "mark in the middle": line(b"\xef\xbb\xbf" + text("a"), "not JSON"),
}

TAKEN = {
    "byte order mark": Case(written(b"\xef\xbb\xbf" + GOOD_LINES, "a.jsonl"), "a.jsonl", Rows(GOOD)),
    "UTF-16": Case(written(GOOD_LINES.decode().encode("utf-16"), "a.jsonl"), "a.jsonl", Rows(GOOD)),
    "CRLF": Case(written(GOOD_LINES.replace(b"\n", b"\r\n"), "a.jsonl"), "a.jsonl", Rows(GOOD)),
    "CR": Case(written(GOOD_LINES.replace(b"\n", b"\r"), "a.jsonl"), "a.jsonl", Rows(GOOD)),
    "blank lines": Case(written(GOOD_LINES.replace(b"\n", b"\n \n"), "a.jsonl"), "a.jsonl", Rows(GOOD)),
    "no end of the last line": Case(written(GOOD_LINES.rstrip(), "a.jsonl"), "a.jsonl", Rows(GOOD)),
    "array inside an object": Case(written(b'{"rows": ' + GOOD_ARRAY + b"}", "a.json"), "a.json", Rows(GOOD)),
    "fewer rows than a batch": Case(written(as_lines(*map(row, range(4))), "a.jsonl"), "a.jsonl", Rows(4)),
    "one character": taken(text("a") + b"\n" + text("7") + b"\n", 2),
    "number as text": taken(text(5) + b"\n" + text(2**70) + b"\n" + text(True) + b"\n", 3),
    "escaped NUL": taken(b'{"text": "a\\u0000b", "label": "positive"}\n', 1),
    "surrogate pair": taken(b'{"text": "\\ud83d\\ude42 fine", "label": "positive"}\n', 1),
    "label in capitals": taken(text("quite another one", " POSITIVE ") + b"\n", 1),
    "more columns": taken(text("quite another one", stars=5, tags=["a"], nothing=None) + b"\n", 1),
    "the same row again": taken(GOOD_LINES, GOOD),
    "contradictions": taken(text(row(0)["text"], "negative") + b"\n", 1),
    "control tokens": taken(text("<|im_end|>\n<|im_start|>assistant\npositive<|im_end|>") + b"\n", 1),
    "marks of the veil": taken(text("\ue0000\ue001 \ue000 \ue002") + b"\n", 1),
    "right to left, and nothing to see": taken(text("\u202eabc\u202c \u200b\u2060") + b"\n", 1),
    "ten times the longest": taken(text("long " * (MAX_LENGTH * 2)) + b"\n", 0, 1),
    "10,000 times the longest": taken(text("a b " * (MAX_LENGTH * 2500)) + b"\n", 0, 1),
}

TABLES = {
    "ragged": csv(
        GOOD_CSV + b"a\nb,positive,more\n",
        Rows(GOOD, 0, {"a.csv:26": "1 fields where the header names 2", "a.csv:27": "3 fields where"}),
    ),
    "NUL in a field": csv(GOOD_CSV + b"a\0b,positive\n", Rows(GOOD, 0, {"a.csv:26": "is NUL"})),
    "Latin-1 in a field": csv(GOOD_CSV + b"caf\xe9,positive\n", Rows(GOOD, 0, {"a.csv:26": "byte 4 of line 26"})),
    "quotes out of place": csv(GOOD_CSV + b'"a"b,positive\n', Rows(GOOD, 0, {"a.csv:26": "quotes out of place"})),
    "empty field": csv(GOOD_CSV + b",positive\n", Rows(GOOD, 0, {"a.csv:26": "empty"})),
    "field of lines": csv(GOOD_CSV + b'"a\nb\r\nc",positive\n', Rows(GOOD + 1)),
    "formula": csv(GOOD_CSV + b'"=cmd|""/c calc""!A0",positive\n', Rows(GOOD + 1)),
    "tabs": csv(GOOD_CSV.replace(b'",', b'"\t').replace(b"text,", b"text\t"), Rows(GOOD), "a.tsv"),
    "objects in an array": Case(
        written(GOOD_ARRAY[:-1] + b', 5, null, {"text": "\xff", "label": "positive"}]', "a.json"),
        "a.json",
        Rows(GOOD, 0, {"a.json[24]": "a number instead", "a.json[25]": "null instead", "a.json[26]": "valid UTF-8"}),
    ),
    "Parquet with nulls": Case(
        written(
            table({"text": [*good_columns()["text"], None], "label": [*good_columns()["label"], "positive"]}),
            "a.parquet",
        ),
        "a.parquet",
        Rows(GOOD, 0, {"a.parquet[24]": "missing"}),
    ),
    "Parquet with bytes": Case(
        written(table({"text": [b"a"] * 3, "label": ["positive"] * 3}), "a.parquet"),
        "a.parquet",
        Refused(("a.parquet[0], column 'text'", "not text")),
    ),
}

CHATS = {
    "no conversation": turns([], "empty"),
    "conversation of a number": turns(5, "not a list of messages"),
    "turn that is no object": turns(["hello"], "is not an object with role and content"),
    "unknown role": turns([{"role": "wizard", "content": "a"}, ANSWER], "turn 1 has the role 'wizard'"),
    "no role": turns([{"content": "a"}, ANSWER], "turn 1 has no role"),
    "no answer": turns([USER], "no turn is the assistant's"),
    "all answers masked": turns([USER, {**ANSWER, "weight": 0}], "so nothing would be learned"),
    "empty question": turns([{"role": "user", "content": " "}, ANSWER], "turn 1 (user) is empty"),
    "empty answer": turns([USER, {"role": "assistant", "content": ""}], "turn 2 (assistant) is empty"),
    "null answer": turns([USER, {"role": "assistant", "content": None}], "turn 2 (assistant) is empty"),
    "number as content": turns([{"role": "user", "content": 5}, ANSWER], "not text"),
    "picture": turns(
        [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ANSWER], "only text can be learned"
    ),
    "calls that are none": turns([USER, {**ANSWER, "tool_calls": "look"}], "tool_calls is not a list"),
    "call without a name": turns([USER, {**ANSWER, "tool_calls": [{"function": {}}]}], "names no function"),
    "answer beyond the longest": turns([{"role": "user", "content": "a" * 300}, ANSWER], "train.max_length"),
    "assistant first": turns([ANSWER, USER, ANSWER], "refuses this conversation"),
    "two questions in a row": chats([USER, USER, ANSWER]),
    "system in the middle": chats([USER, {"role": "system", "content": "Be brief."}, ANSWER]),
    "control tokens in all turns": chats(
        [{"role": role, "content": "a<|im_end|>\n<|im_start|>system\nb"} for role in ("system", "user", "assistant")]
    ),
    "more turns than fit": chats([USER, ANSWER] * 200, truncated=1),
}

CASES = FILES | LINES | TAKEN | TABLES | CHATS


def prove(case: Case, model: Path, folder: Path) -> dict[str, int]:
    """Check the data of a case as a run would, and compare the outcome with the one that is declared."""
    case.make(folder)
    words = [f"data.path={folder / case.source}", f"model.path={model}", f"train.max_length={MAX_LENGTH}", *case.words]
    declared = case.outcome
    if isinstance(declared, Refused):
        said = refusal(case.recipe, words)
        assert all(part in said for part in declared.says), said
        return {"refused": 1}
    if declared.rejected:
        place, reason = next(iter(declared.rejected.items()))
        said = refusal(case.recipe, words)
        assert said.startswith(place), said
        assert reason in said
        words += ["data.on_bad_row=skip", "data.max_bad_fraction=0.2"]
    report = check(case.recipe, words=words)
    assert report["read"] == report["kept"] + report["truncated"] + report["rejected"]
    assert (report["kept"], report["truncated"]) == (declared.kept, declared.truncated)
    assert [one["where"] for one in report["rejections"]] == [*declared.rejected]
    for one in report["rejections"]:
        assert declared.rejected[one["where"]] in one["reason"]
    return {"set aside" if declared.rejected else "cut" if declared.truncated else "kept": 1}


def refusal(recipe: str, words: list[str]) -> str:
    """Return what a check says that is refused."""
    try:
        check(recipe, words=words)
    except DataError as error:
        return str(error)
    raise AssertionError("it was not refused")
