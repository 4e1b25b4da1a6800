"""What the hub and the network do wrong ends with one sentence, waits no longer than it should, and tells no token."""

import os
import subprocess
import sys

import pytest

from peftkit import cli
from peftkit.adapter.attach import WEIGHTS
from peftkit.adapter.passport import file_hash
from peftkit.errors import ConfigError, RemoteError
from peftkit.share.remote_errors import redact, redact_address
from peftkit.share.transfer import pull, push

from .fake_hub import TOKEN, Fault

REPO = "someone/reviews"
WRONG = "hf_wrong0123456789abcdefghijklmnop"


def token_file(tmp_path, content):
    path = tmp_path / "token.txt"
    path.write_text(content)
    return path


def everything(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("GET", "/api/models/", 403, {"X-Error-Message": "no access"}), r"may not do this \(403: no access\)"),
        (Fault("GET", "/api/models/", 403, {"X-Error-Code": "GatedRepo"}), r"is gated; accept its terms"),
        (Fault("GET", "/api/models/", 404), r"is not on the hub, or is hidden from you \(404\)"),
        (Fault("GET", "/api/models/", 418), r"the hub refuses this \(418\)"),
        (Fault("GET", "/api/models/", 500, times=99), r"has a fault of its own \(500\); try again later"),
        (Fault("GET", "/api/models/", 429, times=99), r"is asked too often \(429\); try again later"),
        (Fault("HEAD", "/resolve/", 503, times=99), r"has a fault of its own \(503\)"),
        (Fault("GET", "/cdn/", 502, times=99), r"has a fault of its own \(502\)"),
        (Fault("GET", "/api/models/", 200, body=b"<html>"), r"^hf:someone/reviews: Expecting value"),
        (Fault("GET", "/api/models/", 302, {"Location": "/api/models/someone/reviews"}, times=99), r"redirect"),
    ],
    ids=range(10),
)
def test_a_pull_that_fails_says_why(hub, adapter, tmp_path, fault, said):
    push(adapter, REPO)
    hub.faults.append(fault)
    with pytest.raises(RemoteError, match=said) as caught:
        pull(REPO, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            Fault("POST", "/api/repos/create", 403, {"X-Error-Message": "read only"}),
            r"may not do this \(403: read only\)",
        ),
        (Fault("POST", "/preupload/", 403), r"may not do this \(403\)"),
        (
            Fault("POST", "/objects/batch", 429, {"Retry-After": "0"}, times=99),
            r"asked too often \(429\); try again in 0",
        ),
        (Fault("PUT", "/store/", 500, times=99), r"has a fault of its own \(500\)"),
        (Fault("POST", "/commit/", 500, times=99), r"has a fault of its own \(500\)"),
        (Fault("POST", "/api/validate-yaml", 500, times=99), r"has a fault of its own \(500\)"),
        (Fault("POST", "/tag/", 403), r"may not do this \(403\)"),
    ],
    ids=range(7),
)
def test_a_push_that_fails_says_why(hub, adapter, fault, said):
    hub.faults.append(fault)
    with pytest.raises(RemoteError, match=said) as caught:
        push(adapter, REPO)
    assert "\n" not in str(caught.value)
    assert len(hub.paths("POST")) < 20


def test_a_commit_is_not_sent_twice_after_a_fault(hub, adapter):
    hub.faults.append(Fault("POST", "/commit/", 503))
    with pytest.raises(RemoteError, match=r"\(503\)"):
        push(adapter, REPO)
    assert len([path for path in hub.paths("POST") if "/commit/" in path]) == 1
    assert push(adapter, REPO)["revision"] == hub.repositories[REPO].head


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, [1.0, 2.0]),
        ({"Retry-After": "7"}, [7.0, 7.0]),
        ({"Retry-After": "soon"}, [1.0, 2.0]),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, [0.0, 0.0]),
        ({"RateLimit": '"api";r=0;t=31', "Retry-After": "7"}, [31.0, 31.0]),
        ({"RateLimit": '"api";r=12;t=31'}, [1.0, 2.0]),
    ],
)
def test_it_waits_as_long_as_the_hub_asks(hub, adapter, tmp_path, waits, headers, expected):
    push(adapter, REPO)
    hub.faults.append(Fault("GET", "/api/models/", 429, headers, times=2))
    assert waits == []
    pull(REPO, tmp_path / "out")
    assert waits == expected


@pytest.mark.parametrize("path", ["/api/models/", "/resolve/", "/cdn/"])
def test_a_fault_that_passes_is_only_a_delay(hub, adapter, tmp_path, waits, path):
    push(adapter, REPO)
    hub.faults.append(Fault("GET", path, 503, {"Retry-After": "2"}, times=3))
    pull(REPO, tmp_path / "out")
    assert waits == [2.0, 2.0, 2.0]


def test_faults_of_a_push_that_pass_are_only_a_delay(hub, adapter, waits):
    for path in ("/api/repos/create", "/preupload/", "/objects/batch", "/commit/", "/tag/"):
        hub.faults.append(Fault("POST", path, 429, {"Retry-After": "3"}))
    hub.faults.append(Fault("PUT", "/store/", 500))
    done = push(adapter, REPO)
    assert waits.count(3.0) == 5
    assert len(waits) == 6
    assert len(hub.repositories[REPO].messages) == 1
    assert done["revision"] == hub.repositories[REPO].head


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_hub_that_asks_for_an_hour_is_not_waited_for(hub, adapter, tmp_path, waits, method):
    hub.faults.append(Fault(method, "/store/|/api/models/", 429, {"Retry-After": "3600"}))
    with pytest.raises(RemoteError, match=r"asked too often \(429\); try again in 3600 seconds"):
        push(adapter, REPO)
    assert waits == []


def test_a_number_of_tries_is_all_there_is(hub, adapter, tmp_path, waits):
    push(adapter, REPO)
    hub.asked.clear()
    hub.faults.append(Fault("GET", "/api/models/", 500, times=99))
    with pytest.raises(RemoteError):
        pull(REPO, tmp_path / "out")
    assert len(hub.asked) == 5
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_nobody_listens(hub, adapter, tmp_path):
    push(adapter, REPO)
    hub.close()
    hub.close = lambda: None
    with pytest.raises(RemoteError, match=r"^hf:someone/reviews cannot be reached \(.*\); check the network"):
        pull(REPO, tmp_path / "out")


def test_offline_is_said(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError, match=r"cannot be reached: HF_HUB_OFFLINE=1 is set; unset it"):
        pull(REPO, tmp_path / "out")
    assert hub.asked == []


def test_nobody_is_logged_in(hub, adapter, tmp_path, monkeypatch):
    push(adapter, REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "absent"))
    hub.asked.clear()
    with pytest.raises(RemoteError, match=r"or the hub wants to know who asks \(401\); run `hf auth login`"):
        pull(REPO, tmp_path / "out")
    assert not [headers for *_, headers in hub.asked if "authorization" in headers]
    with pytest.raises(RemoteError, match="needs a token to be written"):
        push(adapter, REPO)
    hub.repositories[REPO].private = False
    assert pull(REPO, tmp_path / "out", token_file=None)["files"]


@pytest.mark.parametrize("content", ["", "two words", "two\nlines", "\x00", "ünicode", None])
def test_a_token_file_that_is_none(hub, tmp_path, content):
    path = tmp_path / "absent" if content is None else token_file(tmp_path, content)
    with pytest.raises(ConfigError, match="--token-file") as caught:
        pull(REPO, tmp_path / "out", token_file=path)
    assert not content or content not in str(caught.value)


def test_an_interrupt_leaves_nothing(hub, adapter, tmp_path, monkeypatch):
    push(adapter, REPO)
    before = set(tmp_path.iterdir())

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("peftkit.share.hub.Hub._require_same", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pull(REPO, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_the_clients_settings_are_put_back(hub, adapter, tmp_path):
    from huggingface_hub import get_session
    from huggingface_hub.utils import are_progress_bars_disabled, logging

    before = (logging.get_verbosity(), are_progress_bars_disabled())
    push(adapter, REPO)
    with pytest.raises(RemoteError):
        pull("someone/absent", tmp_path / "out")
    assert (logging.get_verbosity(), are_progress_bars_disabled()) == before
    assert type(get_session()).__name__ == "Client"
    assert get_session().event_hooks["request"]


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("secret", [TOKEN, WRONG])
def test_a_token_is_never_told(hub, adapter, tmp_path, monkeypatch, capfd, caplog, debug, secret):
    given = token_file(tmp_path, secret + "\n")
    echo = {"X-Error-Message": f"Bearer {secret} is not yours", "Location": f"{hub.elsewhere}/x?token={secret}"}
    push(adapter, REPO, tag="v0")
    lines = [
        ["push", adapter, REPO],
        ["pull", REPO, tmp_path / "out"],
        ["push", adapter, "someone/other", "--tag", "x"],
    ]
    for method, path, status in (
        ("none", "", 0),
        ("POST", "/commit/", 403),
        ("PUT", "/store/", 400),
        ("GET", "/cdn/", 403),
        ("GET", "/api/models/", 302),
    ):
        for words in lines:
            hub.faults[:] = [Fault(method, path, status, echo, times=99, body=f'{{"error": "{secret}"}}'.encode())]
            monkeypatch.setattr(sys, "argv", ["peftkit", *debug, *map(str, words), "--token-file", str(given)])
            with pytest.raises(SystemExit):
                cli.main()
    said = "".join(capfd.readouterr()) + caplog.text
    assert "someone/reviews" in said
    assert ("Traceback" in said) == bool(debug)
    given.unlink()
    for token in (secret, secret[3:]):
        assert token not in said
        assert token.encode() not in everything(adapter)
        assert token.encode() not in everything(tmp_path / "out") if (tmp_path / "out").exists() else True
        stored = [b"".join(files.values()) for one in hub.repositories.values() for files in one.commits.values()]
        assert token.encode() not in b"".join(stored)


def test_from_a_command_line_of_its_own(hub, adapter, tmp_path):
    away = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "HF_" not in name}
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def peftkit(*words):
        command = [sys.executable, "-m", "peftkit", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=away | home, check=False)

    pushed = peftkit("push", adapter, f"hf:{REPO}", "--tag", "v1")
    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert f"commit {hub.repositories[REPO].head}, tag v1; it is private" in pushed.stdout
    pulled = peftkit("pull", REPO, tmp_path / "out", "--revision", "v1")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    assert file_hash(tmp_path / "out" / WEIGHTS) == file_hash(adapter / WEIGHTS)
    again = peftkit("pull", REPO, tmp_path / "out")
    assert again.returncode == 6
    gone = peftkit("pull", "hf:someone/gone", tmp_path / "other")
    assert gone.returncode == 10
    assert gone.stderr.startswith("error: hf:someone/gone is not on the hub")
    assert TOKEN not in "".join(one.stdout + one.stderr for one in (pushed, pulled, again, gone))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN} here", "token ... here"),
        ("Authorization: Bearer abc.def-123", "Authorization: ..."),
        ("see https://user:pass@host/a/b?X-Amz-Signature=abc#x now", "see https://host/a/b?... now"),
        ("mine is secret", "mine is ..."),
    ],
)
def test_secrets_are_taken_out(text, shown):
    assert redact(text, "secret", None) == shown


def test_an_address_that_cannot_be_read_is_not_shown():
    assert redact_address("https://[user:pass@x") == "..."
