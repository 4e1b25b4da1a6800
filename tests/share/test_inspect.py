"""What is said of an adapter is what its files hold, and what is wrong with it is found."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from peftkit.adapter.passport import PASSPORT
from peftkit.errors import AdapterError, ConfigError, OutputError
from peftkit.share.adopt import adopt
from peftkit.share.inspect import inspect_adapter
from peftkit.share.inspect_page import write_page
from peftkit.share.inspect_screen import facts, kinds_of_modules

from ..merge.bases import adapter, base, change_config, tensors

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    of = base("llama")
    folder = tmp_path_factory.mktemp("made") / "a"
    return adapter(of, folder, target_modules=["q_proj", "down_proj"], rank_pattern={"layers.0.mlp.down_proj": 2})


@pytest.fixture
def folder(made, tmp_path):
    """A copy whose base is named as a hub's is, and whose files all may read; PEFT lets the owner alone."""
    shutil.copytree(made, tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).chmod(0o644)
    change_config(tmp_path / "a", base_model_name_or_path="somebody/model")
    return tmp_path / "a"


def change_weights(folder, part, change):
    state = {name: change(value) if part in name else value for name, value in tensors(folder).items()}
    save_file(state, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)


def test_norms_are_those_of_the_changes(folder):
    found = inspect_adapter(folder)
    state = tensors(folder)
    squares = {}
    for one in found.modules:
        a, b = (state[f"base_model.model.{one.name}.lora_{side}.weight"].double() for side in "AB")
        assert one.rank == len(a) == (2 if one.name == "model.layers.0.mlp.down_proj" else 4)
        assert one.scale == 9 / one.rank
        wanted = float((one.scale * b @ a).norm())
        assert one.norm == pytest.approx(wanted, rel=1e-9)
        squares.setdefault(one.layer, []).append(wanted**2)
    assert len(found.modules) == 4
    assert found.layers == pytest.approx({layer: sum(several) ** 0.5 for layer, several in squares.items()})
    assert found.norm == pytest.approx(sum(map(sum, squares.values())) ** 0.5)
    assert found.size == (folder / WEIGHTS).stat().st_size
    assert found.parameters == sum(value.numel() for value in state.values())
    assert found.dtypes == {"float32": found.parameters}
    assert found.problems == []
    assert dict(facts(found))["base model"] == "somebody/model"
    assert [(row[0], row[1], row[2]) for row in kinds_of_modules(found.modules)] == [
        ("down_proj", 2, "2 to 4"),
        ("q_proj", 2, "4"),
    ]
    assert json.loads(json.dumps(found.as_json()))["modules"][0]["rank"] == 2


def test_an_untrained_adapter_changes_nothing(folder):
    change_weights(folder, "lora_B", torch.zeros_like)
    assert "changes nothing" in inspect_adapter(folder).problems[0]


PROBLEMS = {
    "idle": (
        lambda f: change_weights(f, "layers.1.self_attn.q_proj.lora_B", torch.zeros_like),
        "1 of 4 modules change nothing, 'model.layers.1.self_attn.q_proj'",
    ),
    "outlier": (lambda f: change_weights(f, "layers.1.mlp.down_proj.lora_B", lambda x: 1e4 * x), "times the median"),
    "not finite": (lambda f: change_weights(f, "layers.1.mlp.down_proj.lora_B", lambda x: x / 0), "not finite"),
    "pickle": (lambda f: (f / "optimizer.pt").write_bytes(b"x"), "'optimizer.pt' can run code"),
    "private": (lambda f: (f / WEIGHTS).chmod(0o600), "read by its owner only"),
    "local": (lambda f: change_config(f, base_model_name_or_path="/home/me/model"), "a folder of one machine"),
    "passport": (lambda f: (f / PASSPORT).write_text("{"), "is damaged"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_found(name, folder):
    spoil, said = PROBLEMS[name]
    spoil(folder)
    problems = inspect_adapter(folder).problems
    assert any(said in one for one in problems), problems
    assert len(problems) == 1


def test_programs_that_read_the_scale_otherwise_need_an_export(folder):
    found = inspect_adapter(folder, ["vllm", "llama.cpp"])
    assert [(one.reader, one.takes) for one in found.verdicts] == [("vllm", True), ("llama.cpp", False)]
    readers = found.as_json()["readers"]
    assert readers["llama.cpp"]["way"] == "export"
    assert any("peftkit export" in one for one in readers["llama.cpp"]["commands"])
    with pytest.raises(ConfigError, match="--for other is not one of"):
        inspect_adapter(folder, ["other"])


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(AdapterError):
        inspect_adapter(tmp_path)
    with pytest.raises(AdapterError):
        inspect_adapter(tmp_path / "gone")


def test_other_methods_and_dora_are_described_without_norms(tmp_path):
    of = base("llama")
    folder = adapter(of, tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    found = inspect_adapter(folder)
    assert found.modules == ()
    assert found.norm is None
    assert any("DoRA" in note for note in found.notes)


def test_the_page_holds_the_figures_and_escapes_what_it_shows(folder, tiny_model, tmp_path):
    plain = adapter(tiny_model, tmp_path / "plain", target_modules=["q_proj", "down_proj"])
    adopt(plain, tmp_path / "adopted")
    found = inspect_adapter(tmp_path / "adopted")
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert f"{found.norm:.4g}" in page
    assert "taken in from" in page
    with pytest.raises(OutputError):
        write_page(found, tmp_path / "page.html")
    change_config(folder, base_model_name_or_path="<script>alert(1)</script>")
    write_page(inspect_adapter(folder), tmp_path / "second.html")
    second = (tmp_path / "second.html").read_text()
    assert "<script" not in second
    assert "&lt;script&gt;alert(1)" in second
