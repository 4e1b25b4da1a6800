import gzip
import hashlib
import itertools
import os
import subprocess
import sys
import tracemalloc

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftkit.data import csv_rows, json_rows, packed, text
from peftkit.data.rows import BadRow, Row
from peftkit.data.sources import describe_source, expand_sources, read_rows, source_names
from peftkit.errors import DataError

ROWS = [{"text": "fine, really", "label": "1"}, {"text": 'a "quote" é\u2028😀', "label": "0"}]
JSONL = '{"text": "fine, really", "label": "1"}\n{"text": "a \\"quote\\" é\u2028😀", "label": "0"}\n'
JSON = '[{"text": "fine, really", "label": "1"},\n {"text": "a \\"quote\\" é\u2028😀", "label": "0"}]'
CSV = 'text,label\n"fine, really",1\n"a ""quote"" é\u2028😀",0\n'
TSV = 'text\tlabel\nfine, really\t1\n"a ""quote"" é\u2028😀"\t0\n'
FILES = {"r.jsonl": JSONL, "r.ndjson": JSONL, "r.json": JSON, "r.csv": CSV, "r.tsv": TSV}


def pack(name, data):
    if name.endswith(".gz"):
        return gzip.compress(data)
    return pyarrow.compress(data, "zstd", asbytes=True) if name.endswith(".zst") else data


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(pack(name, content if isinstance(content, bytes) else content.encode()))
    return list(read_rows(path))


def said(tmp_path, name, content):
    return [row.sentence() if isinstance(row, BadRow) else row.values for row in read(tmp_path, name, content)]


def refusal(tmp_path, name, content):
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content)
    assert str(caught.value).startswith(str(tmp_path / name))
    return str(caught.value).removeprefix(str(tmp_path / name)).strip()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be with mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", FILES)
def test_reads_each_format(tmp_path, name, line_end, encoding, ending):
    text = FILES[name].replace("\n", line_end)
    data = ("\ufeff" + text).encode("utf-16-be") if "mark" in encoding else text.encode(encoding)
    rows = read(tmp_path, name + ending, data)
    assert [row.values for row in rows] == ROWS
    first = {"json": ["[0]", "[1]"], "csv": [":2", ":3"], "tsv": [":2", ":3"]}.get(name[2:], [":1", ":2"])
    assert [row.where for row in rows] == [name + ending + place for place in first]


def test_reads_json_values_and_an_object_around_an_array(tmp_path):
    assert said(
        tmp_path, "a.json", '{"version": {"n": [1]}, "rows" : [{"a": [1, 2.5, null, true, {"b": []}]}], "z": 1}'
    ) == [{"a": [1, 2.5, None, True, {"b": []}]}]
    assert said(tmp_path, "a.JSONL", '\n  \n {"a": "\\ud83d\\ude00"} \n\n') == [{"a": "😀"}]


def test_blank_lines_are_left_out_but_counted(tmp_path):
    rows = read(tmp_path, "a.csv", "\n text , label\n\n   \na,b\r\n\r\n,\n")
    assert rows == [Row("a.csv:5", {"text": "a", "label": "b"}), Row("a.csv:7", {"text": "", "label": ""})]
    assert read(tmp_path, "b.csv", 'text\n""\n\nx') == [Row("b.csv:2", {"text": ""}), Row("b.csv:4", {"text": "x"})]


def test_a_row_over_several_lines_keeps_the_line_where_it_begins(tmp_path):
    rows = read(tmp_path, "a.csv", 'text,label\n"one\r\n\r\ntwo",1\nx,2\n"p\nq",3,4\ny,5')
    assert rows == [
        Row("a.csv:2", {"text": "one\r\n\r\ntwo", "label": "1"}),
        Row("a.csv:5", {"text": "x", "label": "2"}),
        BadRow("a.csv:6", None, "3 fields where the header names 2 (the row goes on to line 7)"),
        Row("a.csv:8", {"text": "y", "label": "5"}),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"a": "x\xe9y"}', "byte 9 of the line is not valid UTF-8"),
        (b'{"a": 1,}', "not JSON: Expecting property name enclosed in double quotes (column 9)"),
        (b'{"a": "x\x00"}', "not JSON: Invalid control character (column 9)"),
        (b'{"a": "x', "not JSON: a text is not closed before its line ends (column 9)"),
        (b'{"a": 1} {"a": 2}', "more than one JSON value (column 10)"),
        (b'"text"', "text instead of an object with named columns"),
        (b"[1]", "an array instead of an object with named columns"),
        (b"3", "a number instead of an object with named columns"),
        (b"null", "null instead of an object with named columns"),
        (b"false", "true or false instead of an object with named columns"),
        (b'{"a": 1, "b": 2, "a": 3}', "key 'a' stands more than once"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_json_line_costs_itself_only(tmp_path, bad, reason):
    rows = read(tmp_path, "a.jsonl", b'{"a": 0}\n' + bad + b'\n{"a": 9}')
    assert rows == [Row("a.jsonl:1", {"a": 0}), BadRow("a.jsonl:2", None, reason), Row("a.jsonl:3", {"a": 9})]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("1e999", "number '1e999' is out of range"),
        ("1" * 5000, f"number '{'1' * 57}...' is out of range"),
        ('{"c": 1, "c": 2}', "key 'c' stands more than once"),
        (r'"\ud83d"', "half of a surrogate pair, which is no character"),
        (r'{"\udc00": 1}', "half of a surrogate pair, which is no character"),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_bad_member_names_its_column(tmp_path, member, reason, ending):
    row = f'{{"a": 1, "b": {member}}}'
    rows = read(tmp_path, f"a.{ending}", f"[{row}]" if ending == "json" else row)
    assert rows == [BadRow("a.json[0]" if ending == "json" else "a.jsonl:1", "b", reason)]


def test_bad_elements_of_a_json_array(tmp_path):
    content = b'[{"a": 1}, 5,\n"x", {"a": 1, "a": 2}, {"a": "\xc3\xa9\xff"},\n {"a": "\xff", "b": "\xff"}, {"a": 2}]'
    assert said(tmp_path, "a.json", content) == [
        {"a": 1},
        "a.json[1]: a number instead of an object with named columns",
        "a.json[2]: text instead of an object with named columns",
        "a.json[3]: key 'a' stands more than once",
        "a.json[4]: byte 33 of line 2 is not valid UTF-8",
        "a.json[5]: byte 9 of line 3 is not valid UTF-8",
        {"a": 2},
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"x\xe9,1", "byte 2 of line 3 is not valid UTF-8"),
        (b"x\x00,1", "byte 2 of line 3 is NUL"),
        (b"x", "1 fields where the header names 2"),
        (b"x,1,2", "3 fields where the header names 2"),
        (b'"x" y,1', "quotes out of place (',' expected after '\"'); double the quotes inside a quoted field"),
        (b'"x\n\xff",1', "byte 1 of line 4 is not valid UTF-8 (the row goes on to line 4)"),
    ],
)
def test_a_bad_csv_row_costs_itself_only(tmp_path, bad, reason):
    rows = read(tmp_path, "a.csv", b"text,label\na,1\n" + bad + b"\nb,2\n")
    assert rows[0] == Row("a.csv:2", {"text": "a", "label": "1"})
    assert rows[1] == BadRow("a.csv:3", None, reason)
    assert [row.values for row in rows[2:]] == [{"text": "b", "label": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "holds no rows; write one JSON object on each line"),
        ("a.jsonl", "\n\n", "holds no rows; write one JSON object on each line"),
        ("a.json", " ", "is empty; write an array of JSON objects"),
        ("a.json", "[ ]", "holds no rows; write an array of JSON objects"),
        ("a.json", '{"r": []}', "holds no rows; write an array of JSON objects"),
        (
            "a.json",
            '[{"a": 1},\n {"b" 2}]',
            "is not JSON: Expecting ':' delimiter at line 2, column 7; correct it there",
        ),
        ("a.json", '[{"a": 1}', "is not JSON: Expecting ',' delimiter at line 1, column 10; correct it there"),
        ("a.json", '[{"a": 1}] x', "is not JSON: Extra data at line 1, column 12; correct it there"),
        ("a.json", "[" * 100_000, "is nested too deeply; write an array of JSON objects"),
        (
            "a.json",
            '{"a": 1}\n{"a": 2}',
            "holds more than one JSON value (line 2); "
            "write an array of JSON objects, or name the file .jsonl if each line is one object",
        ),
        (
            "a.json",
            '{"a": [1], "b": [2]}',
            "is neither an array of objects nor an object with one array; write an array of JSON objects",
        ),
        ("a.json", "3", "is neither an array of objects nor an object with one array; write an array of JSON objects"),
        ("a.csv", "", "is empty; write a header with the columns' names, and the rows below it"),
        (
            "a.csv",
            "text,label\n\n",
            "has a header but no rows; write a header with the columns' names, and the rows below it",
        ),
        ("a.csv", "a,b, a \n1,2,3", "has 2 columns named 'a'; rename them in the header"),
        (
            "a.csv",
            ",text\n0,x",
            "gives no name to column 1; name it in the header, or write the file without row numbers",
        ),
        (
            "a.csv",
            "text;label\nx;1",
            "seems to be separated by ';': its header is 'text;label'; use commas (.csv) or tabs (.tsv)",
        ),
        (
            "a.csv",
            b"te\xfft\nx",
            "has a header that cannot be read: byte 3 of line 1 is not valid UTF-8; correct its first row",
        ),
        (
            "a.csv",
            'a,b\n1,2\n"3,4\n5,6\n',
            "has a quoted field in the row at line 3 that does not end before the end of the file; "
            "close the quote, or double it where it is part of the text",
        ),
        ("a.csv", b"\x1f\x8b123", "is a gzip file (name it .gz); write its rows as .jsonl or .csv"),
        ("a.csv", b"PK\x03\x04123", "is a zip or Excel file; write its rows as .jsonl or .csv"),
        ("a.tsv", "a\n1".encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
        (
            "a.jsonl",
            '{"a": 1}'.encode("utf-16-le"),
            "is a binary file, or UTF-16 text without a byte order mark; save it as UTF-8",
        ),
        (
            "a.xlsx",
            "x",
            "is in no format that peftkit reads; use one of .parquet, .arrow, .feather, or .jsonl, .ndjson, .json, "
            ".csv, .tsv, .txt, .text, .md, .markdown, .rst, .tex, the latter also with .gz or .zst",
        ),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, message):
    assert refusal(tmp_path, name, content) == message


def test_half_a_utf16_character_is_one_bad_row(tmp_path):
    rows = read(tmp_path, "a.csv", "text\nx\ny".encode("utf-16") + b"z")
    assert [type(row) for row in rows] == [Row, BadRow]


def test_a_lone_surrogate_in_utf16_is_one_bad_row(tmp_path):
    data = b"\xff\xfe" + "text\nx\ud800\ny".encode("utf-16-le", "surrogatepass")
    assert said(tmp_path, "a.csv", data) == ["a.csv:2: byte 2 of line 2 is not valid UTF-8", {"text": "y"}]


def test_paths_that_are_no_data_file(tmp_path):
    (tmp_path / "reviews.csv").write_text("a\n1")
    os.mkfifo(tmp_path / "some_named_pipe.csv")
    for name, message in {
        "review.csv": "is not there; did you mean 'reviews.csv'?",
        "zzzzzzzzzz.json": "is not there; check data.path",
        "none/reviews.csv": "is not there; check data.path",
        "reviews.csv/x.csv": "is not there; check data.path",
        "\0.csv": "is not there; check data.path",
        "some_named_pipe.csv": "is not a regular file; give the path of one data file",
    }.items():
        with pytest.raises(DataError) as caught:
            read_rows(tmp_path / name)
        shown = str(tmp_path / name).replace("\0", r"\x00")
        assert str(caught.value) == f"{shown} {message}"
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / ("x" * 5000 + ".csv"))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("a\n1")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(DataError, match=r"a\.csv cannot be read \(Permission denied\); check its permissions"):
        list(read_rows(path))


@pytest.mark.parametrize(("ending", "kind"), [(".gz", "gzip"), (".zst", "Zstandard")])
def test_a_cut_off_or_damaged_file_gives_what_it_can_and_then_says_so(tmp_path, ending, kind):
    path = tmp_path / f"a.jsonl{ending}"
    text = "".join(f'{{"a": "{os.urandom(500).hex()}"}}\n' for _ in range(4000))
    whole = pack(path.name, text.encode())
    path.write_bytes(whole[:-100])
    rows = read_rows(path)
    assert next(rows).where == f"a.jsonl{ending}:1"
    with pytest.raises(DataError, match=f"is cut off or no {kind} file"):
        list(rows)
    for damaged in (b"", b"not packed", whole + b"junk"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"is cut off or no {kind} file"):
            list(read_rows(path))
    path.write_bytes(whole + whole)
    assert len(list(read_rows(path))) == 8000


def test_limits(tmp_path, monkeypatch):
    for module in (text, json_rows, csv_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 40)
    monkeypatch.setattr(packed, "_CHUNK_BYTES", 16)
    long = "x" * 200
    assert said(tmp_path, "a.jsonl", f'{{"a": 1}}\n{{"a": "{long}"}}\r\n{{"a": 2}}') == [
        {"a": 1},
        "a.jsonl:2: longer than 40 bytes",
        {"a": 2},
    ]
    assert said(tmp_path, "a.json", f'[{{"a": "{long}"}}, {{"a": 2}}]') == ["a.json[0]: longer than 40 bytes", {"a": 2}]
    assert said(tmp_path, "a.csv", f"a\n{long}\r\ny\n{long}") == [
        "a.csv:2: longer than 40 bytes",
        {"a": "y"},
        "a.csv:4: longer than 40 bytes",
    ]
    assert "does not end before 40 bytes" in refusal(tmp_path, "b.csv", 'a,b\n"1,2\n' + "3,4\n" * 20)
    monkeypatch.setattr(packed, "MAX_UNPACKED_BYTES", 100)
    for name in ("a.csv.gz", "a.csv.zst"):
        assert refusal(tmp_path, name, "a\n" * 100) == "unpacks to more than 100 bytes; split it into smaller files"
    monkeypatch.setattr(json_rows, "MAX_JSON_BYTES", 100)
    assert refusal(tmp_path, "c.json", " " * 101).startswith("is larger than 100 bytes; ")


def test_lines_do_not_depend_on_the_size_of_chunks():
    data = b"a\r\n\rb\n\n\r\r\nc\r\n\xe2\x80\xa8d\r"
    expected = list(enumerate(data.splitlines(keepends=True), 1))
    for size in range(1, len(data) + 1):
        chunks = (data[start : start + size] for start in range(0, len(data), size))
        assert list(text.split_lines(chunks)) == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.csv.zst", "a.txt"])
def test_line_formats_are_read_in_constant_memory(tmp_path, name):
    path = tmp_path / name
    line = ("{%s}" % ('"text": "' + "x" * 900 + '"') if "json" in name else "x" * 900).encode() + b"\n"
    data = b"text\n" * ("csv" in name) + line * 30_000
    path.write_bytes(pack(name, data))
    del data
    tracemalloc.start()
    try:
        assert sum(isinstance(row, Row) for row in read_rows(path)) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


PIECES = rb"""" , { } [ ] : a {"a":1} {"a":"x"} a,b [{"a": \ud800 NaN 1e999""".split()
PIECES += [b" ", b"\n", b"\r", b"\t", b"\0", b"\xe9", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80"]
CONTENT = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))


@pytest.mark.parametrize("cut", [None, 5])
@pytest.mark.parametrize("name", [name + ending for name in (*FILES, "r.txt") for ending in ("", ".gz")])
def test_any_bytes_have_a_declared_outcome(tmp_path, name, cut):
    numbers = itertools.count()

    @settings(
        max_examples=300 if cut is None else 50, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(CONTENT, st.booleans())
    def holds(content, compressed):
        path = tmp_path / str(next(numbers)) / name
        path.parent.mkdir()
        path.write_bytes((gzip.compress(content) if compressed else content)[: -cut if cut else None])
        try:
            rows = list(read_rows(path))
        except DataError as error:
            rows = [BadRow(name, None, str(error))]
        assert rows
        for row in rows:
            assert row.where.startswith(name)
            if isinstance(row, BadRow):
                assert "\n" not in row.sentence()
                row.sentence().encode()
            else:
                repr(row.values).encode()
                for column, value in row.values.items():
                    (column + str(value)).encode()

    holds()


def test_bad_rows_are_said_in_one_line():
    assert BadRow("reviews.csv:17", "text", "empty").sentence() == "reviews.csv:17, column 'text': empty"
    assert BadRow("reviews.json[16]", None, "x").sentence() == "reviews.json[16]: x"
    assert BadRow("a", "x\n\ud800" + "y" * 100, "z").sentence() == "a, column 'x\\n\\ud800" + "y" * 54 + "...': z"


def test_importing_is_light():
    code = "import sys, peftkit.data.sources, peftkit.data.columns; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "datasets", "pandas", "numpy", "pyarrow", "sqlalchemy", "kagglehub"}
    assert not heavy & set(loaded)


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text,label\na,1\n")


def test_globs_become_files_in_sorted_order(tmp_path, monkeypatch):
    write(tmp_path, "r-2.csv", "r-10.csv", "r-1.csv", "r[1].csv", "deep/a/x.csv", "deep/y.csv", "deep/.hidden.csv")
    monkeypatch.chdir(tmp_path)
    words = ["-", "r-*.csv", "r[1].csv", "hf:a/b#train[:10%]", "sql:sqlite:///x?y#select *", "gone.csv"]
    files = ["r-1.csv", "r-10.csv", "r-2.csv"]
    assert expand_sources(words) == ["-", *files, "r[1].csv", "hf:a/b#train[:10%]", words[4], "gone.csv"]
    assert expand_sources(["deep/**"]) == ["deep/a/x.csv", "deep/y.csv"]
    assert expand_sources([f"{tmp_path}/r-?.csv"]) == [f"{tmp_path}/r-1.csv", f"{tmp_path}/r-2.csv"]
    assert expand_sources(["documents:r-?.csv"]) == ["documents:r-1.csv", "documents:r-2.csv"]
    with pytest.raises(DataError, match=r"^s-\*\.csv matches no file; check the pattern, and put quotes around it$"):
        expand_sources(["s-*.csv"])
    with pytest.raises(DataError, match="matches no file"):
        expand_sources(["dee*"])  # a folder is no file


def test_names_tell_sources_apart(tmp_path, monkeypatch):
    assert source_names(["a/x.csv"]) == [None]
    words = ["a/x.csv", "b/x.csv", "y.csv", "-", "hf:a/b", "c/b/x.csv", "lines:z/y.csv", "y.csv"]
    assert source_names(words) == ["a/x.csv", "b/x.csv", "y.csv", None, None, "c/b/x.csv", "z/y.csv", "y.csv"]
    write(tmp_path, "a/x.csv", "b/x.csv")
    monkeypatch.chdir(tmp_path)
    words = ["a/x.csv", "b"]
    pairs = zip(words, source_names(words), strict=True)
    assert [row.where for word, name in pairs for row in read_rows(word, name=name)] == ["x.csv:2", "b/x.csv:2"]


def test_files_are_described(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\nx\n")
    digest = hashlib.sha256(b"text\nx\n").hexdigest()
    assert describe_source(str(path)) == {"name": "a.csv", "bytes": 7, "sha256": digest}
    assert describe_source(f"paragraphs:{path}") == {
        "name": "a.csv",
        "bytes": 7,
        "sha256": digest,
        "unit": "paragraphs",
    }
    with pytest.raises(DataError, match="is not there"):
        describe_source(str(tmp_path / "b.csv"))


def test_a_home_folder_can_be_written_as_a_tilde(tmp_path, monkeypatch):
    write(tmp_path, "a.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [row.where for row in read_rows("~/a.csv")] == ["a.csv:2"]
    assert expand_sources(["~/*.csv"]) == [str(tmp_path / "a.csv")]
