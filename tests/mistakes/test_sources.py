"""Mistakes in `data.path`: words that name no source, and files that hold no rows."""

import io
import sys

import pytest

from .exercise import Case, Command, Place, check_case, checked, table

ROW = '{"text": "good film", "label": "positive"}\n'

FILES = [
    Case(
        "near name", lambda place: place.check(f"data.path={place.reviews}l"), 3, ("is not there", "'reviews.jsonl'?")
    ),
    Case(
        "no data file", lambda place: place.check("data.path=no/rows.csv"), 3, ("no/rows.csv is not there", "data.path")
    ),
    Case("empty file", lambda place: place.rows("a.csv", ""), 3, ("a.csv is empty", "header")),
    Case("header only", lambda place: place.rows("a.csv", "text,label\n"), 3, ("a.csv has a header but no rows",)),
    Case("ending", lambda place: place.rows("a.xlsx", "x"), 3, ("a.xlsx is in no format", ".jsonl", ".csv")),
    Case("zip", lambda place: place.rows("a.csv", b"PK\x03\x04"), 3, ("a.csv is a zip or Excel file",)),
    Case(
        "glob", checked("data.path=no-*.csv"), 3, ("no-*.csv matches no file", "check the pattern", "quotes around it")
    ),
    Case(
        "glob beside a file",
        lambda place: place.check(f'data.path=["{place.reviews}", "no-*.csv"]'),
        3,
        ("no-*.csv matches no file",),
    ),
    Case("glob of held-out rows", checked("data.test_path=no-*.csv"), 3, ("no-*.csv matches no file",)),
    Case(
        "folder without data",
        lambda place: place.check(f"data.path={place.file('pictures/a.png').parent}"),
        3,
        ("pictures holds no data file that peftkit reads; put .jsonl, .csv",),
    ),
    Case("text that is not there", checked("data.path=paragraphs:no.txt"), 3, ("no.txt is not there",)),
]

WORDS = [
    Case("hub without a name", checked("data.path=hf:"), 3, ("hf: names no dataset; write hf:owner/name",)),
    Case("hub without network", checked("data.path=hf:a/b"), 3, ("hf:a/b cannot be had from the hub", "the network")),
    Case("folder as hub", checked("data.path=hf:./no"), 3, ("hf:no is no folder", "write owner/name for the hub")),
    Case(
        "Kaggle without owner", checked("data.path=kaggle:mail"), 3, ("kaggle:mail names no dataset; write kaggle:own",)
    ),
    Case("no CORD-19", checked("data.path=cord19:no"), 3, ("no/metadata.csv is not there",)),
    Case("CORD-19 option", checked("data.path=cord19:no?target=body"), 3, ("'target=body' is no option; use target=",)),
    Case("no URL of a database", checked("data.path=sql:reviews"), 3, ("sql: the URL cannot be read", "sqlite:///rev")),
    Case("no query", checked("data.path=sql:sqlite:///a.db"), 3, ("there is no query; write it behind a #",)),
    Case("no database", checked("data.path=sql:sqlite:///a.db#select 1"), 3, ("a.db is not there",)),
    Case(
        "query that writes", checked("data.path=sql:sqlite:///a.db#drop table a"), 3, ("'drop' is not the beginning",)
    ),
    Case("no variable", checked("data.path=sql:$NO_URL#select 1"), 3, ("no environment variable NO_URL; set it",)),
]


@table(*FILES, *WORDS)
def test_mistake_in_a_source(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


@pytest.mark.parametrize("words", [['data.path=["-", "-"]'], ["data.path=-", "data.test_path=-"]], ids=["both", "test"])
def test_standard_input_is_no_two_sources(
    words: list[str], place: Place, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ROW.encode() * 30)))
    case = Case("", lambda place: place.check(*words), 3, ("standard input can be read only once", "give a file"))
    check_case(case, place, command)
