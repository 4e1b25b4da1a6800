"""A server on loopback that answers as the Hugging Face hub does, as far as one adapter's repository needs it."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field

import yaml

TOKEN = "hf_canary0123456789abcdefghijklmnop"
"""The only token that is accepted; it must appear nowhere but in the header of a request."""


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


@dataclass
class Fault:
    """An answer in place of the right one, a number of times."""

    method: str
    path: str
    status: int
    headers: dict = field(default_factory=dict)
    times: int = 1
    body: bytes = b""


@dataclass
class Repository:
    private: bool
    commits: dict = field(default_factory=dict)  # commit -> {name: content}
    tags: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)
    head: str = ""

    def commit(self, files: dict) -> str:
        self.head = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[self.head] = files
        return self.head

    def resolve(self, revision: str) -> str | None:
        revision = {"main": self.head, **self.tags}.get(revision, revision)
        return revision if revision in self.commits else None


class FakeHub:
    """The state of the server, what it was asked, and what it is to do wrong.

    Attributes:
        faults: Answers that come first.
        cut: Names of files whose body ends in the middle, as often as they stand here.
        swapped: Other content than the listing says, by name.
        unsized: Whether listings leave sizes out.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.cut: list[str] = []
        self.swapped: dict[str, bytes] = {}
        self.unsized = False
        self.asked: list[tuple[str, str, dict]] = []  # method, path, headers by their names in small letters
        self.payloads: dict[str, list] = {}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def elsewhere(self) -> str:
        """The same server under another name: where large files are kept."""
        return f"http://localhost:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def make(self, repo: str, files: dict, *, private: bool = True) -> Repository:
        made = self.repositories[repo] = Repository(private)
        made.commit({".gitattributes": b"", **files})
        return made

    def paths(self, method: str) -> list[str]:
        return [path for one, path, _ in self.asked if one == method]


def _handler(hub: FakeHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def go(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.body = self._chunked() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            hub.asked.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
            for fault in hub.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, path):
                    fault.times -= 1
                    return self.answer(fault.status, fault.body, fault.headers)
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    return answer(self, *match.groups())
            return self.answer(404, b"{}")

        do_GET = do_HEAD = do_POST = do_PUT = go

        def _chunked(self) -> bytes:
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def answer(self, status, content=b"", headers=None, *, length=None) -> None:
            self.send_response(status)
            for name, value in {
                **(headers or {}),
                "Content-Length": len(content) if length is None else length,
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def json(self, value, status=200) -> None:
            self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def seen(self, repo: str) -> Repository | None:
            """Return a repository that the asker may see; else answer as the hub does."""
            given = self.headers.get("Authorization")
            if given not in (None, f"Bearer {TOKEN}"):
                # A server that repeats what it was sent, so that a client could give it away.
                error = f"Invalid credentials in Authorization header: {given}"
                self.answer(401, json.dumps({"error": error}).encode(), {"X-Error-Message": error})
                return None
            found = hub.repositories.get(repo)
            if found is None or (found.private and given is None):
                self.answer(
                    404 if given else 401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
                )
                return None
            return found

        def info(self, repo, revision=None) -> None:
            if (found := self.seen(repo)) is None:
                return
            commit = found.resolve(revision or "main")
            if commit is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [self.entry(name, content) for name, content in found.commits[commit].items()]
            self.json({"id": repo, "sha": commit, "private": found.private, "siblings": siblings, "tags": []})

        def entry(self, name, content) -> dict:
            entry = {"rfilename": name, "blobId": git_hash(content)}
            if not hub.unsized:
                entry["size"] = len(content)
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            return entry

        def create(self) -> None:
            asked = json.loads(self.body)
            hub.payloads.setdefault("create", []).append(asked)
            repo = f"{asked['organization']}/{asked['name']}"
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.json({"error": "no"}, 401)
            hub.make(repo, {}, private=asked.get("visibility") == "private" or asked.get("private", False))
            self.json({"url": f"{hub.url}/{repo}"})

        def refs(self, repo) -> None:
            found = self.seen(repo)
            tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in found.tags.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}
            self.json({"branches": [main], "tags": tags, "converts": []})

        def validate(self) -> None:
            text = json.loads(self.body)["content"]
            hub.payloads.setdefault("card", []).append(text)
            head = yaml.safe_load(text.split("---\n")[1])
            errors = [] if isinstance(head.get("license", ""), str) else [{"message": "license must be a string"}]
            self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

        def preupload(self, repo, _) -> None:
            self.seen(repo)
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(self.body)["files"]
            ]
            self.json({"files": files})

        def batch(self, repo) -> None:
            objects = json.loads(self.body)["objects"]
            actions = {one["oid"]: {"upload": {"href": f"{hub.elsewhere}/store/{one['oid']}"}} for one in objects}
            self.json({"transfer": "basic", "objects": [{**one, "actions": actions[one["oid"]]} for one in objects]})

        def store(self, oid) -> None:
            hub.stored[oid] = self.body
            self.answer(200)

        def commit(self, repo, _) -> None:
            found = self.seen(repo)
            lines = [json.loads(line) for line in self.body.splitlines()]
            hub.payloads.setdefault("commit", []).append(lines)
            files = dict(found.commits[found.head])
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    if value["parentCommit"] != found.head:
                        return self.json({"error": "the branch has moved"}, 412)
                    found.messages.append(value["summary"])
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
                else:
                    assert line["key"] == "deletedFile"
                    del files[value["path"]]
            oid = found.commit(files)
            self.json({"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid})

        def tag(self, repo, commit) -> None:
            found, name = self.seen(repo), json.loads(self.body)["tag"]
            if name in found.tags:
                return self.json({"error": "the tag exists"}, 409)
            found.tags[name] = found.resolve(commit)
            self.json({})

        def resolve(self, repo, revision, name) -> None:
            if (found := self.seen(repo)) is None:
                return
            commit = found.resolve(revision)
            content = found.commits[commit][name]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"'}
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
                return self.answer(302, b"", {**headers, "Location": f"{hub.elsewhere}/cdn/{commit}/{repo}/{name}"})
            return self.file(name, content, headers)

        def cdn(self, commit, repo, name) -> None:
            self.file(name, hub.repositories[repo].commits[commit][name], {})

        def file(self, name, content, headers) -> None:
            content = hub.swapped.get(name, content)
            status, start = 200, 0
            if "Range" in self.headers:
                status, start = 206, int(re.match(r"bytes=(\d+)-", self.headers["Range"])[1])
                headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            part = content[start:]
            if name in hub.cut and self.command == "GET":
                hub.cut.remove(name)
                self.close_connection = True
                return self.answer(status, part[: len(part) // 2], headers, length=len(part))
            return self.answer(status, part, headers)

        def log_message(self, *_) -> None:
            pass

    repo = r"([^/]+/[^/]+)"
    ROUTES = [
        ("GET", f"/api/models/{repo}", Handler.info),
        ("GET", f"/api/models/{repo}/revision/(.+)", Handler.info),
        ("GET", f"/api/models/{repo}/refs", Handler.refs),
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate),
        ("POST", f"/api/models/{repo}/preupload/([^/]+)", Handler.preupload),
        ("POST", rf"/{repo}\.git/info/lfs/objects/batch", Handler.batch),
        ("PUT", "/store/([0-9a-f]+)", Handler.store),
        ("POST", f"/api/models/{repo}/commit/([^/]+)", Handler.commit),
        ("POST", f"/api/models/{repo}/tag/([^/]+)", Handler.tag),
        ("HEAD GET", f"/{repo}/resolve/([^/]+)/(.+)", Handler.resolve),
        ("HEAD GET", f"/cdn/([0-9a-f]+)/{repo}/(.+)", Handler.cdn),
    ]
    return Handler
