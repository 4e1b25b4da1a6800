"""An adapter made from trained ones says so, claims nothing that was not measured on it, and answers texts."""

import json
import shutil

import pytest

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.passport import PASSPORT, file_hash, read_passport
from peftkit.errors import AdapterError
from peftkit.judge import predict
from peftkit.merge.combine import combine
from peftkit.merge.given import Weighted

from .adapters import make_adapter

pytestmark = pytest.mark.xdist_group("merge")

TEXT = "it was a lovely film"


def scores(folder):
    return dict(predict(folder, [TEXT])[0]["scores"])


def test_the_passport_of_a_combination_names_its_parents_and_no_evaluation(runs, tmp_path):
    report = combine([Weighted(runs[0], 0.75), Weighted(runs[1], 0.25)], tmp_path / "out")
    assert report["passport"]
    made, parent = read_passport(tmp_path / "out"), read_passport(runs[0] / "adapter")
    assert [one.name for one in made.made_from.parents] == ["run1", "run2"]
    assert [one.weight for one in made.made_from.parents] == [0.75, 0.25]
    assert [one.weights_sha256 for one in made.made_from.parents] == [
        file_hash(run / "adapter" / WEIGHTS) for run in runs
    ]
    assert (made.before, made.after, made.difference, made.metrics) == ({}, {}, {}, {})
    assert (made.base, made.tokenizer, made.config) == (parent.base, parent.tokenizer, parent.config)
    assert made.files == {name: file_hash(tmp_path / "out" / name) for name in (WEIGHTS, PEFT_CONFIG)}
    assert parent.made_from is None
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "was not judged since" in card
    assert "| run2 | 0.25 |" in card
    assert "| metric |" not in card
    assert "None" not in card


def test_a_combination_answers_as_its_parts_do(runs, tmp_path):
    combine([Weighted(runs[1], 0.5), Weighted(runs[1], 0.5)], tmp_path / "same")
    combine([Weighted(runs[0]), Weighted(runs[1])], tmp_path / "both")
    assert scores(tmp_path / "same") == pytest.approx(scores(runs[1]), abs=1e-4)
    assert scores(tmp_path / "both") != pytest.approx(scores(runs[1]), abs=1e-2)


def test_a_part_without_a_passport_leaves_the_whole_without_one(runs, tiny_model, tmp_path):
    other = make_adapter(tiny_model, tmp_path / "other")
    report = combine([Weighted(runs[0]), Weighted(other)], tmp_path / "out")
    assert not report["passport"]
    assert not (tmp_path / "out" / PASSPORT).exists()
    assert report["warnings"] == []


def test_a_part_of_another_base_is_refused_by_its_passport(runs, tmp_path):
    shutil.copytree(runs[1] / "adapter", tmp_path / "other")
    path = tmp_path / "other" / PASSPORT
    passport = json.loads(path.read_text())
    passport["base"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(passport))
    with pytest.raises(AdapterError, match="trained on other base weights"):
        combine([Weighted(runs[0]), Weighted(tmp_path / "other")], tmp_path / "out")
    (tmp_path / "other" / WEIGHTS).write_bytes((runs[0] / "adapter" / WEIGHTS).read_bytes())
    with pytest.raises(AdapterError, match="was changed after its passport"):
        combine([Weighted(runs[0]), Weighted(tmp_path / "other")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
