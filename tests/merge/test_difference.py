"""The numbers of a comparison are those of the dense changes, and what is the same is said to be so."""

import json
import shutil
import sys

import pytest
import torch

from peftkit import cli
from peftkit.merge.combine import combine
from peftkit.merge.difference import SHOWN, compare_adapters
from peftkit.merge.given import Weighted

from .adapters import PATTERNS, changes, edit_settings, make_adapter

pytestmark = pytest.mark.xdist_group("merge")


@pytest.fixture
def pair(tiny_model, tmp_path):
    first = make_adapter(tiny_model, tmp_path / "a", 1, **PATTERNS)
    return first, make_adapter(tiny_model, tmp_path / "b", 2, r=3, target_modules=["q_proj", "up_proj", "o_proj"])


def dense_figures(a, b):
    largest = max(float(a.norm()), float(b.norm()))
    cosine = float((a * b).sum() / (a.norm() * b.norm())) if a.norm() and b.norm() else None
    return [float(a.norm()), float(b.norm())], cosine, float((a - b).norm()), float((a - b).norm()) / largest


def test_the_figures_are_those_of_the_dense_changes(pair):
    report = compare_adapters(*pair)
    one, other = changes(pair[0]), changes(pair[1])
    names = sorted(one.keys() | other.keys())
    assert list(report["modules"]) == names
    flat = ([], [])
    for name in names:
        shape = one.get(name, other.get(name)).shape
        a, b = (side.get(name, torch.zeros(shape, dtype=torch.float64)) for side in (one, other))
        found = report["modules"][name]
        norms, cosine, distance, relative = dense_figures(a, b)
        assert found["norms"] == pytest.approx(norms)
        assert found["cosine"] == (None if cosine is None else pytest.approx(cosine, abs=1e-9))
        assert (found["distance"], found["relative_difference"]) == pytest.approx((distance, relative))
        flat[0].append(a.flatten())
        flat[1].append(b.flatten())
    norms, cosine, distance, relative = dense_figures(torch.cat(flat[0]), torch.cat(flat[1]))
    total = report["total"]
    assert total["norms"] == pytest.approx(norms)
    assert (total["cosine"], total["distance"]) == pytest.approx((cosine, distance))
    assert total["relative_difference"] == pytest.approx(relative)
    assert report["modules"]["model.layers.0.self_attn.o_proj"]["ranks"] == [0, 3]
    assert report["modules"]["model.layers.1.self_attn.q_proj"]["ranks"] == [2, 3]
    assert report["settings"]["r"] == [4, 3]
    assert "task_type" not in report["settings"]
    assert report["same"] is None


def test_a_small_difference_does_not_drown_in_rounding(pair, tmp_path):
    combine([Weighted(pair[0], 1 + 1e-5)], tmp_path / "near", method="cat")
    total = compare_adapters(pair[0], tmp_path / "near")["total"]
    assert total["relative_difference"] == pytest.approx(1e-5, rel=0.02)
    assert total["cosine"] == pytest.approx(1, abs=1e-12)


def test_copies_are_identical_and_other_factors_of_one_change_are_the_same(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "copy")
    assert compare_adapters(pair[0], tmp_path / "copy")["same"] == "files"
    combine([Weighted(pair[0], 0.5), Weighted(pair[0], 0.5)], tmp_path / "halves")
    report = compare_adapters(pair[0], tmp_path / "halves")
    assert report["same"] == "change"
    assert report["settings"]["use_rslora"] == [True, False]
    edit_settings(tmp_path / "copy", lora_alpha=9)
    assert compare_adapters(pair[0], tmp_path / "copy")["same"] is None


def test_whole_modules_are_compared_too(tiny_model, tmp_path):
    made = [make_adapter(tiny_model, tmp_path / name, 1, modules_to_save=["model.norm"]) for name in "ab"]
    combine([Weighted(made[0], 1.0)], tmp_path / "same")
    report = compare_adapters(made[0], tmp_path / "same")
    assert report["same"] == "change"
    assert report["whole_modules"]["model.norm.weight"]["relative_difference"] == 0
    other = make_adapter(tiny_model, tmp_path / "c", 2, modules_to_save=["model.norm"])
    assert compare_adapters(made[0], other)["whole_modules"]["model.norm.weight"]["relative_difference"] > 0.1


def shown(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["peftkit", "diff", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    return capsys.readouterr().out


def test_the_table_has_the_largest_difference_first_and_a_total(pair, tiny_model, tmp_path, capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, *pair).splitlines()
    report = compare_adapters(*pair)
    order = sorted(report["modules"], key=lambda name: -report["modules"][name]["distance"])
    head = next(number for number, line in enumerate(lines) if line.startswith("module "))
    assert [line.split()[0] for line in lines[head + 1 : head + 1 + len(order)]] == order
    assert lines[head + 1 + len(order)].startswith("total of LoRA")
    many = [make_adapter(tiny_model, tmp_path / name, 3, target_modules="all-linear") for name in ("many", "more")]
    edit_settings(many[1], lora_alpha=16)
    monkeypatch.setattr("peftkit.merge.difference.SHOWN", 5)
    assert "... and 9 more" in shown(capsys, monkeypatch, *many)
    assert SHOWN == 20


def test_identical_adapters_are_said_to_be_so(pair, capsys, monkeypatch):
    assert "A and B are identical" in shown(capsys, monkeypatch, pair[0], pair[0])


def test_passports_stand_side_by_side(runs, capsys, monkeypatch):
    report = json.loads(shown(capsys, monkeypatch, *runs, "--json"))
    after = [json.loads((run / "summary.json").read_text())["after"]["accuracy"]["value"] for run in runs]
    assert report["passports"]["Accuracy"] == after
    assert report["passports"]["base"][0] == report["passports"]["base"][1]
    assert report["settings"]["use_rslora"] == [False, True]
    assert "Accuracy" in shown(capsys, monkeypatch, *runs)
