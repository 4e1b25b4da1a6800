import io
import types

import pytest

from peftkit.data.rows import BadRow, Row
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))

    return give


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'\n \n{"text": "a"}\n', "stdin:3"),
        (b' [\n{"text": "a"}]', "stdin[0]"),
        (b"\ntext\r\na\r\n", "stdin:3"),
        (b"\xef\xbb\xbftext\na\n", "stdin:2"),
        ('{"text": "a"}'.encode("utf-16"), "stdin:1"),
    ],
)
def test_the_first_character_tells_the_format(stdin, content, where):
    stdin(content)
    assert list(read_rows("-")) == [Row(where, {"text": "a"})]
    assert describe_source("-") == {"name": "standard input"}


def test_a_bad_row_costs_itself_only(stdin):
    stdin(b'{"text": "a"}\nx\n{"text": "b"}\n')
    assert [type(row) for row in read_rows("-")] == [Row, BadRow, Row]


def test_it_is_read_once(stdin):
    stdin(b"text\na\n")
    list(read_rows("-"))
    with pytest.raises(DataError, match=r"^standard input can be read only once; give a file for one of the sources$"):
        read_rows("-")


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_nothing_is_refused(stdin, content):
    stdin(content)
    with pytest.raises(DataError, match=r"^standard input is empty; "):
        list(read_rows("-"))


def test_a_terminal_is_refused(stdin, monkeypatch):
    stdin(b"")
    monkeypatch.setattr("sys.stdin.buffer.isatty", lambda: True, raising=False)
    with pytest.raises(DataError, match=r"^standard input is a terminal; send rows into it"):
        read_rows("-")
