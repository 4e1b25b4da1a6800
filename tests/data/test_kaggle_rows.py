"""Against a server on loopback that answers as Kaggle's does."""

import http.server
import io
import json
import logging
import sys
import threading
import zipfile

import pytest

from peftkit.data import kaggle_rows
from peftkit.data.rows import Row
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError, MissingDependencyError

pytest.importorskip("kagglehub")

FILES = {"train.csv": b"text,label\na,1\nb,0\n", "more/test.jsonl": b'{"text": "c", "label": 1}\n'}


class Kaggle(http.server.BaseHTTPRequestHandler):
    asked = []

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.rsplit("/", 1)[-1]
        self.asked.append((method, request))
        if request.get("datasetSlug") == "private":
            return self.answer(403, b'{"code": 403, "message": "Permission denied"}', "application/json")
        if request.get("datasetSlug") != "reviews":
            return self.answer(404, b'{"code": 404, "message": "Not found"}', "application/json")
        if method == "GetDataset":
            return self.answer(200, b'{"currentVersionNumber": 7}', "application/json")
        name = request.get("fileName")
        if not name:
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as written:
                for one, content in FILES.items():
                    written.writestr(one, content)
            return self.answer(200, archive.getvalue(), "application/zip")
        if name not in FILES:
            return self.answer(404, b'{"code": 404, "message": "Not found"}', "application/json")
        return self.answer(200, FILES[name], "text/csv")

    def answer(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    from kagglesdk import kaggle_env

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kaggle)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # its port is fixed to 80, so the address is put in
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, f"http://127.0.0.1:{server.server_port}"
    )
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    kaggle_rows._fetch.cache_clear()
    Kaggle.asked.clear()
    yield Kaggle
    server.shutdown()
    thread.join()
    server.server_close()
    kaggle_rows._fetch.cache_clear()


def test_a_file_is_fetched_once_and_quietly(kaggle, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger("kagglehub"), "level", logging.INFO)
    word = "kaggle:me/reviews/train.csv"
    assert list(read_rows(word)) == [
        Row("me/reviews/train.csv:2", {"text": "a", "label": "1"}),
        Row("me/reviews/train.csv:3", {"text": "b", "label": "0"}),
    ]
    described = describe_source(word)
    assert described["name"] == word
    assert described["version"] == 7
    assert described["bytes"] == len(FILES["train.csv"])
    assert [method for method, _ in kaggle.asked] == ["GetDataset", "DownloadDataset"]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("kagglehub").level == logging.ERROR  # its own handler keeps the stream of its import


def test_a_version_and_a_path_can_be_given(kaggle):
    assert [row.where for row in read_rows("kaggle:me/reviews/versions/3/more/test.jsonl")] == [
        "me/reviews/more/test.jsonl:1"
    ]
    assert describe_source("kaggle:me/reviews/versions/3/more/test.jsonl")["version"] == 3
    ((method, request),) = kaggle.asked
    assert (method, request["fileName"]) == ("DownloadDataset", "more/test.jsonl")


def test_a_whole_dataset_is_read_as_a_folder(kaggle):
    assert [row.where for row in read_rows("kaggle:me/reviews")] == [
        "me/reviews/more/test.jsonl:1",
        "me/reviews/train.csv:2",
        "me/reviews/train.csv:3",
    ]
    described = describe_source("kaggle:me/reviews")
    assert described["name"] == "kaggle:me/reviews"
    assert [file["name"] for file in described["files"]] == ["more/test.jsonl", "train.csv"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("me/gone/train.csv", "is not on Kaggle; check owner, name, version and file"),
        ("me/reviews/gone.csv", "is not on Kaggle; check owner, name, version and file"),
        ("me/private/a.csv", "is private or wants consent; accept its terms on kaggle.com and set KAGGLE_API_TOKEN"),
        ("reviews", "names no dataset; write kaggle:owner/name/file.csv"),
    ],
)
def test_what_kaggle_does_not_give(kaggle, word, message):
    with pytest.raises(DataError) as caught:
        read_rows(f"kaggle:{word}")
    assert str(caught.value) == f"kaggle:{word} {message}"


def test_no_network(kaggle, monkeypatch):
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"cannot be fetched \(.*\); check the network and try again$"):
        read_rows("kaggle:me/reviews/train.csv")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    kaggle_rows._fetch.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"^kaggle: needs kagglehub, .*`pip install 'peftkit\[kaggle\]'`$"):
        read_rows("kaggle:me/reviews/train.csv")
