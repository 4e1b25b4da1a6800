"""Push and pull with the real huggingface_hub, against a hub on loopback."""

import json

import pytest

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card import is_made_card
from peftkit.adapter.passport import PASSPORT, file_hash
from peftkit.errors import AdapterError, ConfigError, RemoteError
from peftkit.share.transfer import pull, push

from . import fake_hub
from .fake_hub import TOKEN, Fault

REPO = "someone/reviews"
SHARED = {"README.md", "chat_template.jinja", PEFT_CONFIG, WEIGHTS, PASSPORT}


def test_what_is_pushed_is_pulled(hub, adapter, tmp_path):
    done = push(adapter, f"hf:{REPO}", message="The first")
    stored = hub.repositories[REPO]
    assert hub.payloads["create"][0]["visibility"] == "private"
    assert stored.private
    assert len(hub.payloads["commit"]) == 1
    assert stored.messages == ["The first"]
    assert stored.commits[stored.head].keys() == {*SHARED, ".gitattributes"}
    assert done["revision"] == stored.head
    assert stored.tags == {f"sha256-{file_hash(adapter / WEIGHTS)[:12]}": stored.head}
    out = tmp_path / "out"
    found = pull(REPO, out)
    assert found["revision"] == stored.head
    assert {path.name for path in out.iterdir()} == SHARED
    assert found["files"] == done["files"]
    assert (out / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    card = (out / "README.md").read_text()
    assert is_made_card(out / "README.md")
    assert f"peftkit pull hf:{REPO} adapter" in card
    assert REPO not in (adapter / "README.md").read_text()


def test_what_is_signed_stays_as_it_is(hub, adapter, tmp_path):
    (adapter / "model.sig").write_text("{}")
    push(adapter, REPO)
    pull(REPO, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == SHARED | {"model.sig"}
    for name in SHARED:
        assert file_hash(tmp_path / "out" / name) == file_hash(adapter / name)


def test_a_tag_of_ones_own_and_a_public_repository(hub, adapter):
    done = push(adapter, REPO, public=True, tag="v1.0")
    assert not hub.repositories[REPO].private
    assert hub.repositories[REPO].tags == {"v1.0": done["revision"]}
    with pytest.raises(RemoteError, match=r"^hf:someone/reviews has the tag 'v1\.0' already; give another one"):
        push(adapter, REPO, public=True, tag="v1.0")
    assert len(hub.payloads["commit"]) == 1


def test_a_second_push_replaces_the_adapter_in_one_commit(hub, adapter):
    push(adapter, REPO, tag="v1")
    (adapter / "chat_template.jinja").unlink()
    (adapter / "README.md").write_text("---\nlicense: mit\n---\nmy own card\n")
    done = push(adapter, REPO, tag="v2")
    files = hub.repositories[REPO].commits[done["revision"]]
    assert files.keys() == {*SHARED, ".gitattributes"} - {"chat_template.jinja"}
    assert files["README.md"].endswith(b"my own card\n")
    assert len(hub.payloads["commit"]) == 2


def test_the_same_weights_keep_their_tag(hub, adapter):
    first = push(adapter, REPO)
    (adapter / "README.md").write_text("---\nlicense: mit\n---\nanother card\n")
    second = push(adapter, REPO)
    assert second["tag"] is None
    assert list(hub.repositories[REPO].tags.values()) == [first["revision"]]


def test_a_repository_with_other_files_is_refused(hub, adapter):
    hub.make(REPO, {"model.safetensors": b"weights", "config.json": b"{}"})
    with pytest.raises(RemoteError, match=r"holds 'model\.safetensors' and 1 more files, so it is not an adapter's"):
        push(adapter, REPO)
    assert "commit" not in hub.payloads
    done = push(adapter, REPO, force=True)
    assert {"model.safetensors", "config.json"} < hub.repositories[REPO].commits[done["revision"]].keys()


def test_a_public_repository_is_not_pushed_to_by_accident(hub, adapter):
    hub.make(REPO, {}, private=False)
    with pytest.raises(RemoteError, match=r"can be seen by everyone; pass --public"):
        push(adapter, REPO)
    assert push(adapter, REPO, public=True)["public"]


def test_a_private_repository_stays_private(hub, adapter):
    push(adapter, REPO)
    assert push(adapter, REPO, public=True)["public"] is False
    assert hub.repositories[REPO].private


def test_a_hub_that_stores_something_else_is_found_out(hub, adapter, monkeypatch):
    monkeypatch.setattr(fake_hub, "git_hash", lambda content: "0" * 40)
    with pytest.raises(AdapterError, match="is not the file that hf:someone/reviews lists"):
        push(adapter, REPO)
    assert hub.repositories[REPO].tags == {}


def test_a_revision_is_pinned_to_its_commit(hub, adapter, tmp_path):
    first = push(adapter, REPO, tag="v1")
    (adapter / "chat_template.jinja").write_text("another")
    push(adapter, REPO, tag="v2")
    hub.asked.clear()
    for number, revision in enumerate(("v1", first["revision"], "refs/nope")):
        if revision == "refs/nope":
            with pytest.raises(RemoteError, match=r"has no revision 'refs/nope'"):
                pull(REPO, tmp_path / str(number), revision=revision)
            assert not (tmp_path / str(number)).exists()
            continue
        found = pull(REPO, tmp_path / str(number), revision=revision)
        assert found["revision"] == first["revision"]
        assert (tmp_path / str(number) / "chat_template.jinja").read_text() == "{{ messages }}"
    read = [path for path in hub.paths("GET") if "/resolve/" in path]
    assert read
    assert all(f"/resolve/{first['revision']}/" in path for path in read)


def test_a_commit_that_was_not_asked_for_is_refused(hub, adapter, tmp_path):
    push(adapter, REPO)
    body = json.dumps({"id": REPO, "sha": "a" * 40, "siblings": []}).encode()
    hub.faults.append(Fault("GET", "/revision/", 200, {"Content-Type": "application/json"}, body=body))
    with pytest.raises(RemoteError, match="which was not asked for"):
        pull(REPO, tmp_path / "out", revision="b" * 40)


def test_an_interrupted_download_goes_on_where_it_broke(hub, adapter, tmp_path, waits, monkeypatch):
    push(adapter, REPO)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1)
    hub.cut += [WEIGHTS, WEIGHTS]
    pull(REPO, tmp_path / "out")
    assert file_hash(tmp_path / "out" / WEIGHTS) == file_hash(adapter / WEIGHTS)
    ranges = [headers["range"] for _, path, headers in hub.asked if "/cdn/" in path and "range" in headers]
    size = (adapter / WEIGHTS).stat().st_size
    assert ranges == [f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]
    assert len(waits) == 2


def test_a_download_that_breaks_off_leaves_nothing(hub, adapter, tmp_path):
    push(adapter, REPO)
    hub.faults.append(Fault("GET", "/cdn/", 404, times=9))
    before = set(tmp_path.iterdir())
    with pytest.raises(RemoteError, match=r"\(404\)"):
        pull(REPO, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before
    hub.faults.clear()
    assert pull(REPO, tmp_path / "out")["files"].keys() == SHARED


@pytest.mark.parametrize("name", [WEIGHTS, PEFT_CONFIG, "README.md"])
def test_a_file_with_another_hash_is_refused(hub, adapter, tmp_path, name):
    push(adapter, REPO)
    content = bytearray(hub.repositories[REPO].commits[hub.repositories[REPO].head][name])
    content[-1] ^= 1
    hub.swapped[name] = bytes(content)
    with pytest.raises(AdapterError, match=f"'{name}' is not the file that hf:{REPO} lists, by its hash"):
        pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_repository_that_lists_what_its_passport_does_not_is_refused(hub, adapter, tmp_path):
    push(adapter, REPO)
    stored = hub.repositories[REPO]
    stored.commit({**stored.commits[stored.head], PEFT_CONFIG: b"{}"})
    with pytest.raises(AdapterError, match=r"was changed after its passport was written"):
        pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_files_of_the_list_are_read(hub, adapter, tmp_path):
    push(adapter, REPO)
    stored = hub.repositories[REPO]
    others = dict.fromkeys(("adapter_model.bin", "run.py", "sub/adapter_config.json", "../escape", "/etc/x"), b"x")
    stored.commit({**stored.commits[stored.head], **others})
    pull(REPO, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").rglob("*")} == SHARED
    assert not [path for path in hub.paths("GET") if path.endswith(tuple(others))]


def test_a_repository_without_a_passport_is_refused(hub, tmp_path):
    hub.make(REPO, {"config.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(AdapterError, match=r"no adapter with a passport: it has no peftkit\.json \(it holds \.gitattr"):
        pull(REPO, tmp_path / "out")


def test_sizes_are_limited_before_and_while_reading(hub, adapter, tmp_path, monkeypatch):
    push(adapter, REPO)
    limits = dict.fromkeys(SHARED, 10_000) | {WEIGHTS: 1 << 30}
    monkeypatch.setattr("peftkit.share.hub.ALLOWED", limits | {PASSPORT: 100})
    with pytest.raises(AdapterError, match=rf"'peftkit\.json' in hf:{REPO} has .* and at most 100 bytes are taken"):
        pull(REPO, tmp_path / "out")
    assert "/resolve/" not in str(hub.paths("GET"))
    monkeypatch.setattr("peftkit.share.hub.ALLOWED", limits)
    hub.swapped["README.md"] = b"x" * 50_000  # more than the listing says
    with pytest.raises(AdapterError, match=r"'README\.md' in hf:someone/reviews has "):
        pull(REPO, tmp_path / "out")
    hub.unsized = True
    with pytest.raises(AdapterError, match="does not say how large"):
        pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_large_files_are_read_elsewhere_without_the_token(hub, adapter, tmp_path):
    push(adapter, REPO)
    pull(REPO, tmp_path / "out")
    elsewhere = [headers for _, path, headers in hub.asked if path.startswith(("/cdn/", "/store/"))]
    assert len(elsewhere) >= 2
    assert not [one for one in elsewhere if "authorization" in one]
    there = [headers for _, path, headers in hub.asked if path.startswith("/api/")]
    assert {one["authorization"] for one in there} == {f"Bearer {TOKEN}"}


def test_a_card_that_the_hub_refuses_is_said(hub, adapter):
    (adapter / "README.md").write_text("---\nlicense: 1\n---\n")
    with pytest.raises(RemoteError, match=r"refuses the head of README\.md: license must be a string; mend it"):
        push(adapter, REPO)
    assert "commit" not in hub.payloads


def test_a_branch_that_moved_meanwhile_is_not_written_over(hub, adapter):
    push(adapter, REPO, tag="v1")
    hub.faults.append(Fault("POST", "/commit/", 412))
    (adapter / "chat_template.jinja").write_text("another")
    with pytest.raises(RemoteError, match=r"was changed by someone else in the meantime \(412\)"):
        push(adapter, REPO, tag="v2")


@pytest.mark.parametrize("tag", ["", "a b", "-x", "a/../b", "x" * 101])
def test_a_tag_that_is_none(hub, adapter, tag):
    with pytest.raises(ConfigError, match="is no tag"):
        push(adapter, REPO, tag=tag)
    assert hub.asked == []
