"""Folders and addresses: the same adapter everywhere, and never half of one."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from peftkit import cli
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card import is_made_card
from peftkit.adapter.passport import PASSPORT, file_hash, read_passport, write_passport
from peftkit.errors import AdapterError, ConfigError, MissingDependencyError, OutputError, RemoteError
from peftkit.share.hub import Hub
from peftkit.share.places import Address, Folder
from peftkit.share.staged import ALLOWED, stage_for_sharing
from peftkit.share.transfer import find_place, pull, push

SHARED = {"README.md", "chat_template.jinja", PEFT_CONFIG, WEIGHTS, PASSPORT}


@pytest.fixture
def memory():
    """The root of fsspec's files in memory, which all of a process share."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def held(files, root):
    return {path.rpartition("/")[2] for path in files.find(root)}


@pytest.mark.parametrize(
    "target", ["{}/there", "file://{}/there", "file://localhost{}/th%20ere", "memory://bucket/a/b"]
)
def test_what_is_pushed_is_pulled(adapter, tmp_path, memory, target):
    target = target.format(tmp_path)
    done = push(adapter, target)
    found = pull(target, tmp_path / "out")
    assert found["files"] == done["files"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == SHARED
    for name in SHARED:
        assert file_hash(tmp_path / "out" / name) == done["files"][name]
    for name in (WEIGHTS, "chat_template.jinja"):
        assert file_hash(adapter / name) == done["files"][name]


def test_no_folder_of_this_machine_is_pushed(adapter, tmp_path):
    """Paths become the names at their ends, and what reads like a secret is refused before anything is sent."""
    passport = read_passport(adapter)
    local = passport.base.model_copy(update={"path": "/srv/models/base"})
    write_passport(adapter, passport.model_copy(update={"base": local}))
    push(adapter, str(tmp_path / "there"))
    assert read_passport(tmp_path / "there").base.path == "./base"
    for name in (PASSPORT, PEFT_CONFIG, "README.md"):
        assert "/srv" not in (tmp_path / "there" / name).read_text()
    (adapter / "README.md").write_text("Ask me: somebody@company.org\n")
    with pytest.raises(AdapterError, match=r"is not shared: README\.md holds .* \(mail address, line 1\)"):
        push(adapter, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_the_folder_of_a_run_is_taken(adapter, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "adapter")
    assert push(run, str(tmp_path / "there"))["files"].keys() == SHARED


@pytest.mark.parametrize("target", ["{}/there", "memory://bucket/there"])
def test_what_is_there_is_replaced_only_by_force_and_only_an_adapter(adapter, tmp_path, memory, target):
    target = target.format(tmp_path)
    push(adapter, target)
    (adapter / "chat_template.jinja").unlink()
    (adapter / "README.md").write_text("---\nlicense: mit\n---\nanother\n")
    with pytest.raises(OutputError, match="not written over"):
        push(adapter, target)
    assert pull(target, tmp_path / "first")["files"].keys() == SHARED
    push(adapter, target, force=True)
    assert pull(target, tmp_path / "second")["files"].keys() == SHARED - {"chat_template.jinja"}
    assert (tmp_path / "second" / "README.md").read_text().endswith("another\n")
    with fsspec.open(f"{target}/notes.txt", "w") as file:
        file.write("mine")
    with pytest.raises(OutputError, match="give another name"):
        push(adapter, target, force=True)
    with fsspec.open(f"{target}/notes.txt") as file:
        assert file.read() == b"mine"
    assert not list(tmp_path.glob(".there*"))


def test_an_empty_folder_is_replaced_by_force(adapter, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists and is not written over"):
        push(adapter, str(tmp_path / "there"))
    assert push(adapter, str(tmp_path / "there"), force=True)["files"].keys() == SHARED


def test_a_push_that_fails_leaves_the_old_folder(adapter, tmp_path, monkeypatch):
    target = tmp_path / "there"
    push(adapter, str(target))
    before = {path.name: file_hash(path) for path in target.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peftkit.share.places.shutil.copytree", full)
    with pytest.raises(OutputError, match="No space left"):
        push(adapter, str(target), force=True)
    assert {path.name: file_hash(path) for path in target.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "there"}


def test_the_passport_comes_last_and_goes_first(adapter, tmp_path, memory, monkeypatch):
    push(adapter, "memory://bucket/there")
    put = MemoryFileSystem.put_file

    def breaks(self, source, target, *words, **more):
        if target.endswith(WEIGHTS):
            raise OSError("the connection broke")
        return put(self, source, target, *words, **more)

    monkeypatch.setattr(MemoryFileSystem, "put_file", breaks)
    with pytest.raises(RemoteError, match=r"memory://bucket/there cannot be used: the connection broke"):
        push(adapter, "memory://bucket/there", force=True)
    assert PASSPORT not in held(memory, "/bucket/there")
    with pytest.raises(AdapterError, match=r"is no adapter with a passport"):
        pull("memory://bucket/there", tmp_path / "out")


def test_a_place_that_changes_a_file_is_found_out(adapter, memory, monkeypatch):

    def cuts(self, source, target, *_, **__):
        self.pipe_file(target, Path(source).read_bytes()[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", cuts)
    with pytest.raises(RemoteError, match=r"gives 'README\.md' back changed; push again"):
        push(adapter, "memory://bucket/there")


@pytest.mark.parametrize("target", ["{}/there", "memory://bucket/there"])
def test_a_changed_byte_is_refused_where_it_is_pulled(adapter, tmp_path, memory, target):
    target = target.format(tmp_path)
    push(adapter, target)
    with fsspec.open(f"{target}/{WEIGHTS}", "rb") as file:
        content = bytearray(file.read())
    content[-1] ^= 1
    with fsspec.open(f"{target}/{WEIGHTS}", "wb") as file:
        file.write(content)
    with pytest.raises(AdapterError, match="was changed after its passport was written"):
        pull(target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["{}/there", "memory://bucket/there"])
def test_a_file_beyond_its_size_is_not_read(adapter, tmp_path, memory, target, monkeypatch):
    target = target.format(tmp_path)
    push(adapter, target)
    monkeypatch.setattr("peftkit.share.places.ALLOWED", {**ALLOWED, WEIGHTS: 1000})
    with pytest.raises(AdapterError, match=rf"{WEIGHTS}'.* has .* and at most 1\.0 kB are taken"):
        pull(target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_of_a_place_stay_there(adapter, tmp_path):
    pull(str(adapter), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == SHARED


def test_links_are_followed_neither_way(adapter, tmp_path):
    (tmp_path / "private").write_text("secret")
    (adapter / "README.md").unlink()
    (adapter / "README.md").symlink_to(tmp_path / "private")
    with pytest.raises(AdapterError, match=r"README\.md' is no plain file, and is not read"):
        pull(str(adapter), tmp_path / "out")
    with pytest.raises(AdapterError, match=r"README\.md' is a link; copy the adapter"):
        push(adapter, str(tmp_path / "there"))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "private"}


def test_a_missing_card_is_written(adapter, tmp_path):
    (adapter / "README.md").unlink()
    stage_for_sharing(adapter, tmp_path / "staged")
    assert is_made_card(tmp_path / "staged" / "README.md")
    assert not (adapter / "README.md").exists()
    (adapter / "model.sig").write_text("{}")  # it would not cover the card
    stage_for_sharing(adapter, tmp_path / "signed")
    assert not (tmp_path / "signed" / "README.md").exists()


@pytest.mark.parametrize("name", [WEIGHTS, PEFT_CONFIG])
def test_what_only_looks_like_an_adapter_is_not_shared(adapter, tmp_path, name):
    (adapter / name).write_bytes(b"\x80\x04cos\nsystem\n" if name == WEIGHTS else b"[]")
    passport = json.loads((adapter / PASSPORT).read_text())
    passport["files"][name] = file_hash(adapter / name)
    (adapter / PASSPORT).write_text(json.dumps(passport))
    with pytest.raises(AdapterError, match="is damaged"):
        push(adapter, str(tmp_path / "there"))
    with pytest.raises(AdapterError, match="is damaged"):
        pull(str(adapter), tmp_path / "out")


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("hf:owner/name", Hub),
        ("hf://owner/name", Hub),
        ("owner/na.me-1", Hub),
        ("./owner/name", Folder),
        ("/owner/name", Folder),
        ("name", Folder),
        ("a/b/c", Folder),
        ("file:///a/b", Folder),
        ("s3://bucket/name", Address),
    ],
)
def test_a_word_names_one_kind_of_place(word, kind):
    assert type(find_place(word)) is kind


@pytest.mark.parametrize(
    ("word", "error", "said"),
    [
        ("hf:owner", ConfigError, "'hf:owner' is no repository on the hub"),
        ("hf:../etc", ConfigError, "is no repository on the hub"),
        ("hf:a/b/c", ConfigError, "is no repository on the hub"),
        ("file://machine/a", ConfigError, "names a machine"),
        ("zip://x::s3://a", ConfigError, "addresses behind addresses"),
        ("s3://bucket/name", MissingDependencyError, r"s3://bucket/name needs a library .*: Install s3fs"),
        ("nope://user:secret@host/x", ConfigError, r"nope://host/x is no address .*: Protocol not known: nope"),
        ("memory://absent", AdapterError, r"has no peftkit\.json \(it holds nothing\)"),
        ("./absent", AdapterError, "'absent' cannot be read: No such file or directory"),
    ],
)
def test_a_place_that_cannot_be_used(tmp_path, memory, monkeypatch, word, error, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said) as caught:
        pull(word, tmp_path / "out")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_the_name_of_a_repository_is_two_things(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"write \./owner/name or hf:owner/name"):
        find_place("owner/name")


@pytest.mark.parametrize("option", [{"public": True}, {"tag": "x"}, {"message": "x"}])
def test_options_of_the_hub_are_for_the_hub(adapter, tmp_path, option):
    with pytest.raises(ConfigError, match="are for the hub"):
        push(adapter, str(tmp_path / "there"), **option)
    with pytest.raises(ConfigError, match="--revision is for the hub"):
        pull(str(adapter), tmp_path / "out", revision="main")


def test_the_commands_say_what_they_did(adapter, tmp_path, monkeypatch, capsys):
    def peftkit(*words):
        monkeypatch.setattr("sys.argv", ["peftkit", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr().out

    code, said = peftkit("push", adapter, tmp_path / "there")
    assert code == 0
    assert said.endswith(f"fetch it: peftkit pull {tmp_path / 'there'} adapter\n")
    code, said = peftkit("pull", tmp_path / "there", tmp_path / "out", "--json")
    assert code == 0
    assert f'"{PASSPORT}": "{file_hash(tmp_path / "there" / PASSPORT)}"' in said
    assert peftkit("card", tmp_path / "out") == (0, f"wrote {tmp_path / 'out' / 'README.md'}\n")
    code, said = peftkit("card", tmp_path / "out", "--print")
    assert (code, said) == (0, (tmp_path / "out" / "README.md").read_text())
