"""Against a folder, and against a server on loopback that answers as the hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import pyarrow as pa
import pytest
from pyarrow import parquet

from peftkit.data import hf_rows
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError

COMMIT = "0123456789abcdef" * 2 + "01234567"
CARD = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
  splits:
  - name: train
    num_examples: 20
    num_bytes: 1
  - name: test
    num_examples: 4
    num_bytes: 1
---
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A clone of a dataset's repository; the folder above it is the working directory."""
    data = tmp_path / "reviews" / "data"
    data.mkdir(parents=True)
    (tmp_path / "reviews" / "README.md").write_text(CARD)
    for split, count in {"train": 20, "test": 4}.items():
        numbers = range(count)
        table = pa.table({"text": [f"{split} {n}" for n in numbers], "label": [n % 3 - 1 for n in numbers]})
        parquet.write_table(table, data / f"{split}-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    hf_rows._open.cache_clear()
    return tmp_path / "reviews"


def places(source):
    return [row.where.removeprefix("reviews#") for row in read_rows(source)]


def test_rows_have_names_of_labels(folder):
    rows = list(read_rows("hf:./reviews#test"))
    assert [row.values for row in rows] == [
        {"text": "test 0", "label": None},  # -1: not told
        {"text": "test 1", "label": "neg"},
        {"text": "test 2", "label": "pos"},
        {"text": "test 3", "label": None},
    ]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ("", [f"train[{n}]" for n in range(20)]),
        ("#train[:10%]", ["train[0]", "train[1]"]),
        ("#train[50%:60%]", ["train[10]", "train[11]"]),
        ("#train[3:5]", ["train[3]", "train[4]"]),
        ("#train[-1:]+test[:2]", ["train[19]", "test[0]", "test[1]"]),
    ],
)
def test_splits_and_slices(folder, splits, expected):
    assert places(f"hf:./reviews{splits}") == expected
    described = describe_source(f"hf:./reviews{splits}")
    assert described == {
        "name": "reviews",
        "repo": "./reviews",
        "config": None,
        "revision": None,
        "split": splits[1:] or "train",
    }


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("license: cc-by-4.0\nlanguage: [en, de]\n", {"licence": "cc-by-4.0", "languages": ["en", "de"]}),
        ("license: other\nlicense_name: Our Terms\nlanguage: en\n", {"licence": "our-terms", "languages": ["en"]}),
        ("license: unknown\nlanguage: [1]\n", {}),
    ],
)
def test_licence_and_language_are_those_of_the_card(folder, head, expected):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", f"---\n{head}", 1))
    described = describe_source("hf:./reviews#test")
    assert {name: described[name] for name in ("licence", "languages") if name in described} == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("./reviews#dev", "hf:reviews has no split dev; it has train, test"),
        ("./reviews#train[a]", "hf:reviews has no split train[a]; it has train, test"),
        ("./reviews#train[7:7]", "hf:reviews gives no rows; choose another split or slice"),
        ("./reviews@main", "hf:reviews is a folder, which has no revision; leave it out"),
        ("./gone", "hf:gone is no folder; check ./gone, or write owner/name for the hub"),
        ("reviews", "hf:reviews is also a folder here; write hf:./reviews for it, or go elsewhere"),
        ("#train", "hf:#train names no dataset; write hf:owner/name:config@revision#split"),
    ],
)
def test_what_a_dataset_does_not_have(folder, word, message):
    with pytest.raises(DataError) as caught:
        list(read_rows(f"hf:{word}"))
    assert str(caught.value) == message


def test_a_configuration_that_is_not_there(folder):
    with pytest.raises(DataError, match=r"^hf:reviews:nope cannot be opened \(BuilderConfig 'nope' not found"):
        read_rows("hf:./reviews:nope")


def test_a_dataset_without_a_card_is_sliced_by_rows_only(folder):
    (folder / "README.md").unlink()
    assert places("hf:./reviews#train[18:30]") == ["train[18]", "train[19]"]
    for word in ("train[:10%]", "train[-2:]"):
        with pytest.raises(DataError, match="does not state how many rows train has; count in rows from its begin"):
            read_rows(f"hf:./reviews#{word}")


def test_a_split_must_be_chosen_where_none_is_train(folder):
    (folder / "README.md").unlink()
    data = folder / "data"
    (data / "train-00000-of-00001.parquet").rename(data / "validation-00000-of-00001.parquet")
    with pytest.raises(
        DataError, match=r"^hf:reviews has the splits validation, test; choose one, such as #validation"
    ):
        read_rows("hf:./reviews")
    hf_rows._open.cache_clear()
    (data / "validation-00000-of-00001.parquet").unlink()
    assert len(places("hf:./reviews")) == 4
    assert describe_source("hf:./reviews")["split"] == "test"


def test_a_damaged_file_is_said_in_one_line(folder):
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"^hf:reviews cannot be ") as caught:
        list(read_rows("hf:./reviews"))
    assert "\n" not in str(caught.value)


def hub(folder):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    class Hub(http.server.BaseHTTPRequestHandler):
        asked = []

        def do_GET(self):
            path = urllib.parse.urlsplit(self.path).path
            self.asked.append(path)
            resolved = f"/datasets/me/reviews/resolve/{COMMIT}/"
            tree = f"/api/datasets/me/reviews/tree/{COMMIT}"
            if path in ("/api/datasets/me/reviews/revision/v1", f"/api/datasets/me/reviews/revision/{COMMIT}"):
                siblings = [{"rfilename": name} for name in files]
                card = {"license": "mit", "language": ["en"]}
                known = {"id": "me/reviews", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
                self.json({**known, "cardData": card})
            elif path.startswith(tree):
                below = path.removeprefix(tree).strip("/")
                folders = [] if below else [{"type": "directory", "oid": "0", "size": 0, "path": "data"}]
                self.json(folders + [self.entry(name) for name in files if name.rpartition("/")[0] == below])
            elif path.startswith(resolved) and path.removeprefix(resolved) in files:
                self.file(files[path.removeprefix(resolved)])
            else:
                codes = {"gone": "RepoNotFound", "gated": "GatedRepo", "nope": "RevisionNotFound"}
                code = next((code for word, code in codes.items() if word in path), "EntryNotFound")
                self.answer(403 if code == "GatedRepo" else 404, b"{}", {"X-Error-Code": code})

        do_HEAD = do_GET

        def entry(self, name):
            content = files[name]
            return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}

        def json(self, value):
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def file(self, content):
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
            if "Range" not in self.headers:
                return self.answer(200, content, headers)
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last or len(content)) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            return self.answer(206, part, headers)

        def answer(self, status, content, headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(content), "X-Repo-Commit": COMMIT}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Hub


PROBE = """
import json, sys
from peftkit.data.sources import describe_source, read_rows
from peftkit.errors import DataError
word = "hf:me/reviews@v1#test[:2]"
said = []
for wrong in ("me/gone", "me/gated", "me/reviews@nope"):
    try:
        read_rows("hf:" + wrong)
    except DataError as error:
        said.append(str(error))
rows = [[row.where, row.values] for row in read_rows(word)]
print(json.dumps({"rows": rows, "source": describe_source(word), "said": said}))
"""


def test_a_branch_of_the_hub_is_resolved_to_a_commit(folder, tmp_path):
    handler = hub(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    away = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "HF_" not in name}
    home = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROBE]  # a process of its own: the endpoint is read when the hub is imported
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=away | home, cwd=tmp_path)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "rows": [
            ["me/reviews#test[0]", {"text": "test 0", "label": None}],
            ["me/reviews#test[1]", {"text": "test 1", "label": "neg"}],
        ],
        "source": {
            "name": "me/reviews",
            "repo": "me/reviews",
            "config": None,
            "revision": COMMIT,
            "split": "test[:2]",
            "licence": "mit",
            "languages": ["en"],
        },
        "said": [
            "hf:me/gone is no dataset on the hub; check the name, and for a private one run `hf auth login`",
            "hf:me/gated is gated; accept its terms on its page, and run `hf auth login`",
            "hf:me/reviews has no revision nope; check its branches and tags",
        ],
    }
    assert done.stderr == ""
    assert handler.asked.count("/api/datasets/me/reviews/revision/v1") == 1
    assert not any("train-" in path for path in handler.asked)
