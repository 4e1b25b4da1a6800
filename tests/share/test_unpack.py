"""An archive is unpacked only if all that it says agrees; nothing of another one is run, written or left."""

import json
import zipfile

import pytest

from peftkit.errors import AdapterError, OutputError
from peftkit.share.archive import read_directory
from peftkit.share.unpack import unpack

from .hostile_archives import ARCHIVES, CONFIG, WEIGHTS, archive, good, in_streams, python_zip
from .limits import MEMORY, refused


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How each hostile archive ended, in one process, in a folder that is looked at afterwards."""
    folder = tmp_path_factory.mktemp("hostile")
    cases = []
    for number, (name, make) in enumerate(ARCHIVES.items()):
        own = folder / f"{number}"
        own.mkdir()
        (own / "a.peft.zip").write_bytes(make())
        cases.append((name, own / "a.peft.zip"))
    found = refused("unpack", cases, folder, first=[folder])
    left = {str(one.relative_to(folder)) for one in folder.rglob("*")}
    expected = {f"{number}" for number in range(len(cases))} | {f"{number}/a.peft.zip" for number in range(len(cases))}
    return found, left - expected - {"job.json", "ended.json"}


def test_there_are_enough_of_them():
    assert len(ARCHIVES) >= 40


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_with_one_sentence(ended, name):
    one = ended[0][name]
    assert one["error"] == "AdapterError", one
    assert one["ran"] == []
    assert one["peak"] < MEMORY
    assert "\n" not in one["message"]
    assert len(one["message"]) < 400


def test_nothing_is_left_of_them(ended):
    assert ended[1] == set()


def test_a_good_archive_is_unpacked(tmp_path):
    (tmp_path / "a.peft.zip").write_bytes(archive(*good()))
    report = unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    assert report["files"] == {"adapter_config.json": len(CONFIG), "adapter_model.safetensors": len(WEIGHTS)}
    assert report["passport"] is False
    for name, content in (("adapter_config.json", CONFIG), ("adapter_model.safetensors", WEIGHTS)):
        assert (tmp_path / "out" / name).read_bytes() == content
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_adapter_that_another_program_zipped_is_unpacked(tmp_path, method):
    (tmp_path / "a.zip").write_bytes(python_zip(in_streams, method))
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 1


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "a.peft.zip").write_bytes(archive(*good()))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists and is not written over"):
        unpack(tmp_path / "a.peft.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("what", ["nothing", "folder", "/dev/zero"])
def test_what_is_no_file_is_refused(tmp_path, what):
    (tmp_path / "folder").mkdir()
    with pytest.raises(AdapterError, match=r"cannot be read|no plain file"):
        unpack(tmp_path / what, tmp_path / "out")


def test_every_changed_byte_of_the_structure_is_noticed_or_harmless(tmp_path):
    """Whatever one byte is changed to, the content is that which was packed, or the archive is refused."""
    made = archive(*good())
    accepted = 0
    for place in range(len(made)):
        for value in (0, 1, 0x20, 0x80, 0xFF, made[place] ^ 1):
            changed = bytearray(made)
            changed[place] = value
            (tmp_path / "a.zip").write_bytes(changed)
            with (tmp_path / "a.zip").open("rb") as stream:
                try:
                    entries = read_directory(stream, "a.zip")
                except AdapterError:
                    continue
                accepted += 1
                assert [one.name for one in entries] == ["adapter_config.json", "adapter_model.safetensors"]
                assert [one.size for one in entries] == [len(CONFIG), len(WEIGHTS)]
    assert 0 < accepted < 6 * len(made)
