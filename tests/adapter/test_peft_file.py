"""An adapter's settings are read strictly before PEFT sees them, by every command that opens an adapter."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, read_files
from peftkit.adapter.peft_file import read_peft_settings
from peftkit.cli import app
from peftkit.errors import AdapterError

from ..merge.adapters import make_adapter
from ..share.limits import MEMORY, refused
from .hostile_settings import EVIL, GOOD, SETTINGS, with_


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How each hostile file ended, in one process."""
    folder = tmp_path_factory.mktemp("settings")
    cases = []
    for number, (name, content) in enumerate(SETTINGS.items()):
        (folder / f"{number}").mkdir()
        (folder / f"{number}" / PEFT_CONFIG).write_bytes(content)
        cases.append((name, folder / f"{number}" / PEFT_CONFIG))
    return refused("settings", cases, folder, first=[folder])


def test_there_are_enough_of_them():
    assert len(SETTINGS) >= 40


@pytest.mark.parametrize("name", SETTINGS)
def test_hostile_settings_are_refused_with_one_sentence(ended, name):
    one = ended[name]
    assert one["error"] == "AdapterError", one
    assert one["ran"] == []
    assert one["peak"] < MEMORY
    assert "\n" not in one["message"]
    assert len(one["message"]) < 400


def test_good_settings_are_read_without_what_would_be_imported(tmp_path):
    (tmp_path / PEFT_CONFIG).write_bytes(with_())
    assert read_peft_settings(tmp_path / PEFT_CONFIG) == {
        name: value for name, value in GOOD.items() if name != "auto_mapping"
    }


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|up|down)_proj"},
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
        {"rank_pattern": {r".*\.up_proj": 8, "^model.layers.0.q_proj": 2}, "alpha_pattern": {"v_proj": 2.5}},
        {"rank_pattern": {"q_proj": [True, False, True]}, "peft_type": "ADALORA", "init_r": 12},
        {"modules_to_save": ["classifier", "score"], "layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"trainable_token_indices": {"embed_tokens": [1, 49151]}, "projection_prng_key": 2**31},
        {"task_type": None, "auto_mapping": {"base_model_class": "Toy", "parent_library": None}},
        {"lora_dropout": 0, "use_rslora": True, "r": 65_536, "init_lora_weights": "pissa_niter_4"},
    ],
)
def test_settings_that_people_have_are_read(tmp_path, values):
    (tmp_path / PEFT_CONFIG).write_bytes(with_(**values))
    found = read_peft_settings(tmp_path / PEFT_CONFIG)
    assert {name: found[name] for name in values if name != "auto_mapping"} == {
        name: value for name, value in values.items() if name != "auto_mapping"
    }


def test_a_queue_is_not_waited_for(tmp_path):
    for name in (PEFT_CONFIG, WEIGHTS):
        os.mkfifo(tmp_path / name)
    with pytest.raises(AdapterError, match="no plain file"):
        read_files(tmp_path)
    (tmp_path / PEFT_CONFIG).unlink()
    (tmp_path / PEFT_CONFIG).write_bytes(with_())
    with pytest.raises(AdapterError, match="no plain file"):
        read_files(tmp_path)


def test_a_rank_that_no_tensor_has_is_refused_before_there_is_room_for_it(tmp_path):
    (tmp_path / PEFT_CONFIG).write_bytes(with_(rank_pattern={"q_proj": 60_000}))
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(4, 2000)}, tmp_path / WEIGHTS)
    with pytest.raises(AdapterError, match="a rank of 60000, and no tensor"):
        read_files(tmp_path)
    (tmp_path / PEFT_CONFIG).write_bytes(with_(rank_pattern={"q_proj": 2000}))
    assert read_files(tmp_path)[0]["rank_pattern"] == {"q_proj": 2000}


@pytest.mark.parametrize(
    "words",
    [
        ["merge", "ADAPTER", "out", "--base", "MODEL"],
        ["verify", "MODEL", "--adapter", "ADAPTER", "--base", "MODEL"],
        ["combine", "ADAPTER", "ADAPTER", "out"],
        ["shrink", "ADAPTER", "out", "--rank", "1"],
        ["diff", "ADAPTER", "ADAPTER"],
        ["pack", "ADAPTER", "out.peft.zip"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_opens_an_adapter_refuses_them(words, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_adapter(tiny_model, tmp_path / "a")
    settings = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps(settings | {"auto_mapping": EVIL}))
    places = {"ADAPTER": str(folder), "MODEL": str(tiny_model)}
    done = CliRunner().invoke(app, [places.get(word, word) for word in words])
    assert isinstance(done.exception, AdapterError)
    assert "by which 'evil_module' would be imported" in str(done.exception)
    shutil.rmtree(folder)
    assert list(tmp_path.iterdir()) == []
