"""Experiments are read strictly, and a set is the product of its lists."""

import re
from pathlib import Path

import pytest

from peftkit.bench.experiment import load_set
from peftkit.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"

SET = """
name: mine
reference: other
contestants:
  peftkit:
  peftkit, plain: {train: {fused_lora: false}}
  other: {script: other.py, arguments: [--fast]}
base: {steps: 3, shapes: smollm2-135m, layers: 2, train: {seed: 3}}
variants:
  - {name: short, lengths: 32}
  - {name: mixed, lengths: {16: 3, 64: 1}, loss_steps: 8}
matrix:
  model.quantization: [nf4, none]
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "other.py").write_text("")

    def written(text):
        file = tmp_path / "set.yaml"
        file.write_text(text)
        return file

    return written


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_of_the_project_can_be_read(file):
    found = load_set(file)
    assert found.name == file.stem
    assert found.summary
    for one in found.experiments:
        assert one.resolved().config.train.max_steps == one.all_steps


def test_a_set_is_the_product_of_variants_and_matrix(write):
    found = load_set(write(SET))
    assert [one.name for one in found.experiments] == [
        "short quantization=nf4",
        "short quantization=none",
        "mixed quantization=nf4",
        "mixed quantization=nf4, same batches",
        "mixed quantization=none",
        "mixed quantization=none, same batches",
    ]
    mixed, twin = found.experiments[2:4]
    assert mixed.lengths == {16: 3, 64: 1}
    assert (mixed.steps, mixed.same_batches, mixed.judges) == (3, False, None)
    assert (twin.all_steps, twin.same_batches, twin.judges) == (8, True, mixed.name)
    config = mixed.resolved({"fused_lora": False}).config
    assert (config.model.quantization, config.train.seed, config.train.fused_lora) == ("nf4", 3, False)
    assert (config.train.max_length, config.train.max_steps) == (64, 5)


def test_one_experiment_has_its_keys_at_the_top(write):
    found = load_set(write("recipe: sentiment\nsteps: 4\nadapter.r: 4\n"))
    assert [(one.name, one.steps) for one in found.experiments] == [("set", 4)]
    assert list(found.contestants) == ["peftkit"]
    assert found.experiments[0].resolved().config.adapter.r == 4


def test_the_experiment_of_the_page_is_one(write, tmp_path):
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "trl_sft.py").write_text("")
    (example,) = re.findall(r"```yaml\n(name: mine\n.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    found = load_set(write(example))
    assert [one.name for one in found.experiments] == ["lengths=1024", "lengths=4096", "lengths=200x9,3000x1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps: 3", "stepz: 3"), "stepz"),
        (("steps: 3", "steps: 0"), "steps"),
        (("steps: 3", "steps: true"), "steps"),
        (("lengths: 32", "lengths: {}"), "lengths"),
        (("lengths: 32", "lengths: {0: 1}"), "lengths"),
        (("lengths: 32", "recipe: sentiment"), "shapes have no tokenizer"),
        (("seed: 3", "seeed: 3"), "did you mean 'train.seed'"),
        (("seed: 3", "max_steps: 3"), "train.max_steps is decided"),
        (("fused_lora: false", "fuse_lora: false"), "train.fused_lora"),
        (("other.py", "absent.py"), "is not there"),
        (("reference: other", "reference: another"), "no contestant 'another'"),
        (("[nf4, none]", "nf4"), "a list of values"),
        (("[nf4, none]", "[nf4, nf5]"), "nf5"),
        (("{name: mixed", "{name: short"), "two experiments are called"),
        (("arguments: [--fast]", "train: {seed: 1}"), "give a script its own arguments"),
        (("base: {", "base: 3\nextra: {"), "base"),
    ],
)
def test_a_mistake_is_one_sentence(write, change, said):
    assert change[0] in SET
    with pytest.raises(ConfigError) as caught:
        load_set(write(SET.replace(*change)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
