import hashlib

import pytest

from peftkit.data.rows import Row
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_all_formats_below_a_folder_are_read_in_the_order_of_their_paths(tmp_path):
    write(
        tmp_path,
        {
            "b.jsonl": '{"text": "b"}\n',
            "a/2.csv": "text\na2\n",
            "a/10.csv": "text\na10\n",
            "a-1.json": '[{"text": "a-1"}]',
            "README.md": "about",
            "picture.png": "x",
            "noending": "x",
            ".git/config.json": "{}",
            ".hidden.csv": "text\nx\n",
        },
    )
    assert list(read_rows(tmp_path)) == [
        Row("a/10.csv:2", {"text": "a10"}),
        Row("a/2.csv:2", {"text": "a2"}),
        Row("a-1.json[0]", {"text": "a-1"}),
        Row("b.jsonl:1", {"text": "b"}),
    ]
    described = describe_source(f"{tmp_path}/")
    assert described["name"] == tmp_path.name
    assert described["left_out"] == ["README.md", "noending", "picture.png"]
    assert [file["name"] for file in described["files"]] == ["a/10.csv", "a/2.csv", "a-1.json", "b.jsonl"]
    assert described["files"][0]["sha256"] == hashlib.sha256(b"text\na10\n").hexdigest()


def test_a_folder_of_datasets_is_read_without_its_bookkeeping(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "saved")
    assert list(read_rows(tmp_path / "saved")) == [
        Row("data-00000-of-00001.arrow[0]", {"text": "a"}),
        Row("data-00000-of-00001.arrow[1]", {"text": "b"}),
    ]


@pytest.mark.parametrize(
    ("files", "word", "message"),
    [
        ({}, "", "holds no data file that peftkit reads; put .jsonl, .csv, .parquet or .txt files there"),
        ({"a.png": "x"}, "", "holds no data file that peftkit reads; put .jsonl, .csv, .parquet or .txt files there"),
        ({"a.csv": "text\nx\n"}, "lines:", "holds no text file that peftkit reads; put .txt or .md files there"),
    ],
)
def test_a_folder_without_data_is_refused_at_once(tmp_path, files, word, message):
    write(tmp_path, files)
    with pytest.raises(DataError) as caught:
        read_rows(f"{word}{tmp_path}")
    assert str(caught.value) == f"{tmp_path} {message}"


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    write(tmp_path, {"a.csv": "text\nx\n", "b/c.csv": ""})
    with pytest.raises(DataError, match=r"b/c\.csv is empty"):
        list(read_rows(tmp_path))


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(tmp_path, monkeypatch):
    write(tmp_path, {"a.csv": "text\nx\n", "locked/b.csv": "text\nx\n"})

    def walk(folder, onerror):
        yield str(folder), ["locked"], ["a.csv"]
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "locked")))

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied: .*locked\); check its permissions"):
        read_rows(tmp_path)
