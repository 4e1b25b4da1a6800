import csv
import hashlib
import json

import pytest

from peftkit.data import cord19_rows
from peftkit.data.rows import BadRow, Row
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError

HEADER = (
    "cord_uid,sha,source_x,title,doi,pmcid,pubmed_id,license,abstract,publish_time,authors,journal,mag_id,"
    "who_covidence_id,arxiv_id,pdf_json_files,pmc_json_files,url,s2_id"
)


def body(*paragraphs):
    return json.dumps(
        {
            "paper_id": "x",
            "metadata": {"title": "", "authors": []},
            "abstract": [{"text": "parsed", "section": "Abstract"}],
            "body_text": [{"text": text, "cite_spans": [], "section": section} for section, text in paragraphs],
        }
    )


class Release:
    def __init__(self, folder):
        self.folder = folder
        self.papers = []
        for kind in ("pdf_json", "pmc_json"):
            (folder / "document_parses" / kind).mkdir(parents=True)

    def paper(self, **cells):
        number = len(self.papers)
        start = {
            "cord_uid": f"uid{number}",
            "title": f"Title {number}",
            "abstract": f"Abstract {number}",
            "license": "cc-by",
        }
        self.papers.append(dict.fromkeys(HEADER.split(","), "") | start | cells)
        return self

    def parse(self, kind, name, content):
        path = f"document_parses/{kind}_json/{name}.json"
        (self.folder / path).write_text(content)
        return path

    def read(self, options=""):
        with (self.folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER.split(","))
            writer.writeheader()
            writer.writerows(self.papers)
        return list(read_rows(f"cord19:{self.folder}{options}"))


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path)


def places(rows):
    return [row.where for row in rows]


def test_abstracts_are_paired_with_titles(release):
    rows = release.paper().paper(abstract='Two\nlines, "quoted"').read()
    assert rows == [
        Row("metadata.csv:2", {"document": "Abstract 0", "summary": "Title 0"}),
        Row("metadata.csv:3", {"document": 'Two\nlines, "quoted"', "summary": "Title 1"}),
    ]
    assert release.read("?target=title") == rows


def test_bodies_are_paired_with_abstracts_and_pmc_parses_come_first(release):
    pdf = release.parse("pdf", "a", body(("Introduction", "from the PDF")))
    pmc = release.parse(
        "pmc", "PMC1.xml", body(("Abstract", "Abstract 0"), ("Introduction", " first "), ("", ""), ("End", "last"))
    )
    other = release.parse("pdf", "b", body(("", "supplement")))
    release.paper(pdf_json_files=pdf, pmc_json_files=pmc)
    release.paper(pdf_json_files=f"{pdf}; {other}")
    release.paper()  # no full text
    release.paper(abstract="", pdf_json_files=pdf)
    release.paper(pdf_json_files=release.parse("pdf", "c", body()))
    assert release.read("?target=abstract") == [
        Row("metadata.csv:2", {"document": "first\n\nlast", "summary": "Abstract 0"}),
        Row("metadata.csv:3", {"document": "from the PDF", "summary": "Abstract 1"}),
    ]


def test_a_paper_counts_once(release):
    release.paper(cord_uid="same", sha="s1; s2", title="One")
    release.paper(cord_uid="same", title="Two")
    release.paper(sha="s2", title="Three")
    release.paper(title="ONE!")
    release.paper(title="Four")
    assert places(release.read()) == ["metadata.csv:2", "metadata.csv:6"]


def test_a_row_without_a_pair_does_not_hide_a_later_one(release):
    release.paper(cord_uid="same", title="One", abstract="")
    release.paper(cord_uid="same", title="One", abstract="here")
    release.paper(title="")
    assert release.read() == [Row("metadata.csv:3", {"document": "here", "summary": "One"})]


def test_identical_titles_that_hold_no_letter_are_not_the_same_paper(release):
    assert places(release.paper(title="?").paper(title="!").read()) == ["metadata.csv:2", "metadata.csv:3"]


def test_licences_are_chosen(release):
    for licence in ("cc-by", "CC0", "no-cc", "els-covid"):
        release.paper(license=licence)
    assert places(release.read("?licence=cc-by, cc0")) == ["metadata.csv:2", "metadata.csv:3"]
    assert places(release.read("?license=no-cc&target=title")) == ["metadata.csv:4"]
    with pytest.raises(DataError, match=r"no paper under cc-by-sa with .*; its licences are cc-by, cc0, els-covid, no"):
        release.read("?licence=cc-by-sa")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (body(("", "text"))[:-30], "Unterminated string starting at: line 1 column 149 (char 148)"),
        ("[]", "it has no body_text"),
        ('{"body_text": {}}', "it has no body_text"),
        ('{"body_text": [{"section": ""}]}', "it has no body_text, a list of paragraphs"),
        ('{"body_text": [1]}', "it has no body_text, a list of paragraphs"),
        ("[" * 100_000, None),
        ("\x80" * 300, "it is larger than 500 bytes"),
    ],
)
def test_a_damaged_parse_costs_its_row_only(release, monkeypatch, content, reason):
    monkeypatch.setattr(cord19_rows, "MAX_PARSE_BYTES", 200_000 if content and content[0] == "[" else 500)
    good = release.parse("pdf", "good", body(("", "good")))
    bad = "document_parses/pmc_json/bad.json" if content is None else release.parse("pmc", "bad", content)
    release.paper(pdf_json_files=good).paper(pmc_json_files=bad, pdf_json_files=good).paper(pdf_json_files=good)
    first, broken, last = release.read("?target=abstract")
    assert (first.where, last.where) == ("metadata.csv:2", "metadata.csv:4")
    assert isinstance(broken, BadRow)
    assert (broken.where, broken.column) == ("metadata.csv:3", "pmc_json_files")
    assert broken.reason.startswith(f"'{bad}' cannot be read: {reason or ''}")
    assert places(release.read()) == ["metadata.csv:2", "metadata.csv:3", "metadata.csv:4"]


@pytest.mark.parametrize("path", ["../secret.json", "/etc/hostname", "document_parses/../../secret.json"])
def test_a_path_out_of_the_release_is_not_followed(release, path):
    (release.folder.parent / "secret.json").write_text(body(("", "secret")))
    (row,) = release.paper(pdf_json_files=path).read("?target=abstract")
    assert row == BadRow(
        "metadata.csv:2", "pdf_json_files", f"'{path}' cannot be read: the path leads out of the release"
    )


def test_a_bad_row_of_the_metadata_costs_itself(release):
    release.paper().paper().read()
    path = release.folder / "metadata.csv"
    path.write_bytes(path.read_bytes() + b"one,cell\n")
    rows = list(read_rows(f"cord19:{release.folder}"))
    assert [type(row) for row in rows] == [Row, Row, BadRow]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?target=body", "'target=body' is no option; use target=title or target=abstract, and licence=cc-by,cc0"),
        ("?year=2020", "'year=2020' is no option; use target=title or target=abstract, and licence=cc-by,cc0"),
    ],
)
def test_options_are_checked_at_once(release, options, message):
    release.paper().read()
    with pytest.raises(DataError) as caught:
        read_rows(f"cord19:{release.folder}{options}")
    assert str(caught.value) == f"cord19:{release.folder}{options}: {message}"


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"metadata\.csv is not there"):
        read_rows(f"cord19:{tmp_path}")
    (tmp_path / "metadata.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="has no column cord_uid, sha, title, license, abstract, pdf_json_files, pmc_"):
        list(read_rows(f"cord19:{tmp_path}"))
    with pytest.raises(DataError, match=r"has no folder document_parses; unpack document_parses\.tar\.gz there"):
        read_rows(f"cord19:{tmp_path}?target=abstract")


def test_a_release_is_described(release):
    release.paper().read()
    content = (release.folder / "metadata.csv").read_bytes()
    assert describe_source(f"cord19:{release.folder}?licence=cc0,cc-by") == {
        "name": release.folder.name,
        "format": "CORD-19",
        "target": "title",
        "licences": ["cc-by", "cc0"],
        "files": [
            {"name": "metadata.csv", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        ],
    }
