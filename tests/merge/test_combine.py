"""A combined adapter changes each module by the weighted sum of what its parts change, whatever their scales."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.merge.combine import combine
from peftkit.merge.given import Weighted

from .adapters import (
    PATTERNS,
    base,
    changes,
    logits,
    logits_of_dense,
    logits_with,
    make_adapter,
    relative,
    settings_of,
)

KINDS = {
    "plain": ({}, {}),
    "rslora": ({"use_rslora": True}, {"use_rslora": True}),
    "one rslora": ({"use_rslora": True, "r": 8}, {"r": 2}),
    "patterns": (PATTERNS, {"r": 3, "alpha_pattern": {"q_proj": 1}}),
    "other modules": ({"target_modules": ["q_proj", "down_proj"]}, {"target_modules": ["q_proj", "k_proj"], "r": 2}),
    "one layer": ({"layers_to_transform": [1]}, {}),
    "embeddings": (
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["embed_tokens", "v_proj"], "r": 3, "use_rslora": True},
    ),
}


@pytest.fixture
def pair(tiny_model, tmp_path):
    """Makes two adapters."""

    def make(first=None, second=None):
        return make_adapter(tiny_model, tmp_path / "a", 1, **(first or {})), make_adapter(
            tiny_model, tmp_path / "b", 2, **(second or {})
        )

    return make


def weighted_sum(*parts):
    total = {}
    for weight, folder in parts:
        for name, change in changes(folder).items():
            total[name] = total.get(name, 0) + weight * change
    return total


@pytest.mark.parametrize("method", ["linear", "cat"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_exact(pair, tiny_model, tmp_path, kind, method):
    a, b = pair(*KINDS[kind])
    report = combine([Weighted(a, 0.7), Weighted(b, -0.4)], tmp_path / "out", method=method)
    expected = weighted_sum((0.7, a), (-0.4, b))
    found = changes(tmp_path / "out")
    assert found.keys() == expected.keys() == report["modules"].keys()
    for name, change in expected.items():
        assert relative(found[name], change) < 1e-6
    written = settings_of(tmp_path / "out")
    assert not written["use_rslora"]
    assert written["lora_alpha"] == written["r"]
    assert written["alpha_pattern"] == written["rank_pattern"]
    assert report["energy_kept"] == pytest.approx(1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embeddings"])
def test_peft_and_peftkit_load_it_strictly_and_answer_as_the_base_with_the_sum(pair, tiny_model, tmp_path, kind):
    a, b = pair(*KINDS[kind])
    combine([Weighted(a, 0.7), Weighted(b, -0.4)], tmp_path / "out")
    expected = logits_of_dense(tiny_model, weighted_sum((0.7, a), (-0.4, b)))
    assert relative(expected, logits(base(tiny_model))) > 0.05
    model = base(tiny_model)
    by_peft = PeftModel.from_pretrained(model, tmp_path / "out")
    assert (logits(by_peft) - expected).abs().max() < 1e-5
    assert (logits_with(tiny_model, tmp_path / "out") - expected).abs().max() < 1e-5


def test_embeddings_answer_as_the_sum(pair, tiny_model, tmp_path):
    a, b = pair({"target_modules": ["embed_tokens"]}, {"target_modules": ["embed_tokens"], "r": 2})
    both = [logits_with(tiny_model, folder) for folder in (a, b)]
    combine([Weighted(a), Weighted(b, 0.0)], tmp_path / "first")
    combine([Weighted(a, 0.0), Weighted(b)], tmp_path / "second")
    for folder, expected in zip(("first", "second"), both, strict=True):
        assert (logits_with(tiny_model, tmp_path / folder) - expected).abs().max() < 1e-5


def test_halves_of_one_adapter_give_it_back_with_its_rank(pair, tmp_path):
    a, _ = pair(PATTERNS)
    combine([Weighted(a, 0.5), Weighted(a, 0.5)], tmp_path / "out")
    for name, change in changes(a).items():
        assert relative(changes(tmp_path / "out")[name], change) < 1e-6
    before, after = settings_of(a), settings_of(tmp_path / "out")
    assert after["r"] == 4
    ranks = set(after["rank_pattern"].values())
    assert ranks == set(before["rank_pattern"].values()) == {6, 2}


def test_an_adapter_less_itself_is_nothing(pair, tiny_model, tmp_path):
    a, _ = pair()
    combine([Weighted(a), Weighted(a, -1.0)], tmp_path / "out")
    assert settings_of(tmp_path / "out")["r"] == 1
    assert torch.equal(logits_with(tiny_model, tmp_path / "out"), logits(base(tiny_model)))


def test_svd_is_the_best_approximation_and_says_what_it_keeps(pair, tmp_path):
    a, b = pair(PATTERNS, {"r": 3})
    report = combine([Weighted(a), Weighted(b)], tmp_path / "out", method="svd", rank=2)
    found = changes(tmp_path / "out")
    kept = total = 0.0
    for name, change in weighted_sum((1, a), (1, b)).items():
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        assert relative(found[name], u[:, :2] * s[:2] @ v[:2]) < 1e-5
        assert report["modules"][name]["energy_kept"] == pytest.approx(float((s[:2] ** 2).sum() / (s**2).sum()))
        kept, total = kept + float((s[:2] ** 2).sum()), total + float((s**2).sum())
    assert report["energy_kept"] == pytest.approx(kept / total)
    assert 0.3 < report["energy_kept"] < 0.95


def test_svd_takes_the_largest_rank_of_a_module_by_itself(pair, tmp_path):
    a, b = pair({"rank_pattern": {"up_proj": 6}}, {"r": 3})
    report = combine([Weighted(a), Weighted(b)], tmp_path / "out", method="svd")
    ranks = {name.rpartition(".")[2]: module["rank"] for name, module in report["modules"].items()}
    assert ranks == {"q_proj": 4, "v_proj": 4, "up_proj": 6}


def test_a_name_that_ends_as_another_keeps_a_rank_of_its_own(tmp_path):
    from peft.utils.other import get_pattern_key

    from peftkit.merge.lora_file import Change, write_lora
    from peftkit.merge.low_rank import Factors

    ranks = {"layers.0.q": 2, "other.layers.0.q": 4, "layers.1.q": 4}
    made = {name: Change(Factors(torch.zeros(8, rank), torch.zeros(rank, 8)), 1.0) for name, rank in ranks.items()}
    written = write_lora(tmp_path / "out", made, {}, {})
    for name, rank in ranks.items():
        key = get_pattern_key(written["rank_pattern"].keys(), name)
        assert written["rank_pattern"].get(key, written["r"]) == rank


def test_whole_modules_of_one_adapter_are_carried_over(pair, tiny_model, tmp_path):
    a, b = pair({}, {"modules_to_save": ["model.norm"], "target_modules": ["k_proj"]})
    combine([Weighted(a, 0.5), Weighted(b)], tmp_path / "out")
    expected = base(tiny_model)
    norm = load_file(b / WEIGHTS)["base_model.model.model.norm.weight"]
    with torch.no_grad():
        for name, change in weighted_sum((0.5, a), (1, b)).items():
            expected.get_submodule(name).weight.add_(change.float())
        expected.model.norm.weight.copy_(norm)
    assert (logits_with(tiny_model, tmp_path / "out") - logits(expected)).abs().max() < 1e-5


def test_trained_tokens_of_one_adapter_are_carried_over(pair, tiny_model, tmp_path):
    a, b = pair({"trainable_token_indices": {"embed_tokens": [5, 9]}}, {"target_modules": ["k_proj"]})
    expected = logits_with(tiny_model, a)
    combine([Weighted(b, 0.0), Weighted(a)], tmp_path / "out")
    assert (logits_with(tiny_model, tmp_path / "out") - expected).abs().max() < 1e-5


def test_the_two_files_are_as_those_of_a_run(pair, tmp_path):
    a, b = pair()
    combine([Weighted(a), Weighted(b)], tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [PEFT_CONFIG, WEIGHTS]
    assert (tmp_path / "out" / WEIGHTS).stat().st_mode & 0o777 == 0o644
    assert list(settings_of(tmp_path / "out")) == sorted(settings_of(a).keys() - {"auto_mapping"})  # that would import
    combine([Weighted(a), Weighted(b)], tmp_path / "again")
    for name in (WEIGHTS, PEFT_CONFIG):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_an_adapter_of_another_name_of_the_base_is_warned_of(pair, tmp_path):
    a, b = pair()
    settings = settings_of(b) | {"base_model_name_or_path": "elsewhere/tiny"}
    (b / PEFT_CONFIG).write_text(json.dumps(settings))
    report = combine([Weighted(a), Weighted(b)], tmp_path / "out")
    assert "elsewhere/tiny" in report["warnings"][0]


@pytest.mark.parametrize(
    ("word", "folder", "weight"),
    [
        ("a", "a", 1),
        ("a:0.7", "a", 0.7),
        ("a:-1", "a", -1),
        ("a:2e-1", "a", 0.2),
        (r"C:\runs\a", r"C:\runs\a", 1),
        (r"C:\runs\a:.5", r"C:\runs\a", 0.5),
        ("a:b", "a:b", 1),
        ("a:nan", "a:nan", 1),
        ("here:2", "here:2", 1),
        ("here:2:0.5", "here:2", 0.5),
    ],
)
def test_a_weight_is_a_number_after_the_last_colon(tmp_path, monkeypatch, word, folder, weight):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here:2").mkdir()
    found = Weighted.parse(word)
    assert (str(found.folder), found.weight) == (folder, weight)
