"""Files of weights whose header was tampered with are refused, or read as safetensors itself reads them."""

import pytest
import safetensors

from ..adapter.hostile_settings import with_
from .hostile_headers import HEADERS, entries, file_of, mutated
from .limits import MEMORY, refused

CHANGED = 10_000
WITH_TORCH = 10**9
"""Bytes, torch and its libraries among them."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headers")
    cases = []
    for number, (name, make) in enumerate(HEADERS.items()):
        (folder / f"{number}.safetensors").write_bytes(make())
        cases.append((name, folder / f"{number}.safetensors"))
    return refused("weights", cases, folder, first=[folder])


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_with_one_sentence(ended, name):
    one = ended[name]
    assert one["error"] == "ModelError", one
    assert one["peak"] < MEMORY
    assert "\n" not in one["message"]


def test_ten_thousand_changed_headers(tmp_path):
    folder = tmp_path / "mutant"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(with_())
    cases = [(str(seed), tmp_path / str(seed)) for seed in range(CHANGED)]
    found = refused("mutant", cases, tmp_path, first=[path for _, path in cases[:60]], room=8 * 10**9)
    accepted = {int(seed) for seed, one in found.items() if one["error"] is None}
    assert {one["error"] for one in found.values()} == {None, "AdapterError"}
    assert all(one["ran"] == [] and one["peak"] < WITH_TORCH for one in found.values())
    assert 100 < len(accepted) < CHANGED / 4
    for seed in accepted:
        safetensors.deserialize(mutated(seed))  # an oracle of its own, which raises for what it refuses
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ended.json", "job.json", "mutant"]
    assert sorted(one.name for one in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_good_header_is_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(file_of(entries()))
    found = refused("weights", [("good", tmp_path / "a.safetensors")], tmp_path)
    assert found["good"]["error"] is None
