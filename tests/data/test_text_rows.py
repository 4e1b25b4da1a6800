import pytest

from peftkit.data import text, text_rows
from peftkit.data.rows import BadRow, Row
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError

NOTES = b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \r\nthree\xe2\x80\xa8still\r\n"


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(NOTES)
    return path


def found(source):
    return [(row.where, row.values["text"]) for row in read_rows(source)]


def test_a_file_gives_its_lines(notes):
    lines = [("notes.txt:1", "one"), ("notes.txt:2", "two"), ("notes.txt:5", "three\u2028still")]
    assert found(notes) == found(str(notes)) == found(f"lines:{notes}") == lines


def test_paragraphs_and_documents_are_asked_for(notes):
    assert found(f"paragraphs:{notes}") == [("notes.txt:1", "one\ntwo"), ("notes.txt:5", "three\u2028still")]
    assert found(f"documents:{notes}") == [("notes.txt", "one\ntwo\n\n \nthree\u2028still")]


def test_any_file_can_be_read_as_text(tmp_path):
    (tmp_path / "code.py").write_text("a = 1\n\nb = 2\n")
    assert found(f"paragraphs:{tmp_path / 'code.py'}") == [("code.py:1", "a = 1"), ("code.py:3", "b = 2")]


def test_a_folder_gives_documents_unless_told_otherwise(tmp_path):
    for name, content in {"b.md": "# b\n", "a/z.txt": "z1\nz2", "a.rst": "a", "picture.png": "x"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    documents = [("a/z.txt", "z1\nz2"), ("a.rst", "a"), ("b.md", "# b")]
    assert sorted(found(str(tmp_path))) == sorted(documents)
    assert found(f"documents:{tmp_path}") == found(str(tmp_path))
    assert ("a/z.txt:2", "z2") in found(f"lines:{tmp_path}")
    assert describe_source(str(tmp_path))["left_out"] == ["picture.png"]


@pytest.mark.parametrize("unit", ["lines", "paragraphs"])
@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_refused(tmp_path, unit, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.txt holds no text; write "):
        list(read_rows(f"{unit}:{tmp_path / 'a.txt'}"))


def test_an_empty_document_is_one_bad_row(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_text("b")
    assert list(read_rows(tmp_path)) == [BadRow("a.txt", "text", "empty"), Row("b.txt", {"text": "b"})]


@pytest.mark.parametrize("unit", ["lines", "paragraphs", "documents"])
def test_bytes_that_are_no_text_cost_their_row(tmp_path, unit):
    (tmp_path / "a.txt").write_bytes(b"ok\n\nx\xff\n\nok")
    rows = list(read_rows(f"{unit}:{tmp_path / 'a.txt'}"))
    where, byte = ("a.txt", 6) if unit == "documents" else ("a.txt:3", 2)
    assert [row for row in rows if isinstance(row, BadRow)] == [
        BadRow(where, "text", f"byte {byte} of it is not valid UTF-8")
    ]
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == (["ok", "ok"] if len(rows) > 1 else [])


@pytest.mark.parametrize(("unit", "good"), [("lines", ["a", "b", "b"]), ("paragraphs", ["a"]), ("documents", [])])
def test_what_is_too_long_costs_its_row(tmp_path, monkeypatch, unit, good):
    for module in (text, text_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 20)
    (tmp_path / "a.txt").write_text("a\n\nb\n" + "x" * 30 + "\nb\n")
    rows = list(read_rows(f"{unit}:{tmp_path / 'a.txt'}"))
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == good
    assert [row.reason for row in rows if isinstance(row, BadRow)] == ["longer than 20 bytes"]
