"""The gate lets the same pace pass, and stops a planted slow, large or badly learning peftkit."""

import pytest

from peftkit.bench.check import baseline_file, findings, read_baselines, record
from peftkit.bench.result import Run
from peftkit.errors import ConfigError

from .results import result, three_rounds, turn


@pytest.fixture
def baseline(tmp_path):
    file = baseline_file(tmp_path / "ci.yaml")
    assert file.name == "ci.baseline.json"
    record(three_rounds(speed=2.0), file)
    return read_baselines(file).machines["2 cores, float32"]


def worse(found, baseline):
    return [one.what for one in findings(found, baseline) if not one.passed]


@pytest.mark.parametrize("values", [{}, {"speed": 1.45}, {"memory": 9 * 10**8}, {"loss": 1.005}, {"speed": 3.0}])
def test_the_same_pace_passes_with_the_noise_of_a_busy_machine(baseline, values):
    assert worse(three_rounds(**values), baseline) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"speed": 1.3}, "speed of peftkit over TRL, at least"),
        ({"memory": 10**9}, "memory of peftkit over TRL, at most"),
        ({"loss": 1.02}, "loss above that of TRL, as a share, at most"),
    ],
)
def test_what_came_out_worse_is_stopped(baseline, values, said):
    assert worse(three_rounds(**values), baseline) == [said]


def test_a_turn_that_failed_is_stopped_with_or_without_a_baseline(baseline):
    runs = [Run(case="small", contestant="peftkit", round=1, status="failed", reason="x"), turn("small", "TRL", 1, 1.0)]
    assert "turns of peftkit that failed" in worse(result(runs), None)
    assert "speed of peftkit over TRL: not measured" in worse(result(runs), baseline)


def test_without_a_baseline_losses_are_judged_all_the_same():
    assert worse(three_rounds(speed=0.1, loss=1.02), None) == ["loss above that of TRL, as a share, at most"]
    assert worse(three_rounds(speed=0.1), None) == []


def test_a_baseline_keeps_other_kinds_of_machine(tmp_path, baseline):
    file = tmp_path / "ci.baseline.json"
    other = three_rounds(speed=5.0)
    record(other.model_copy(update={"machine": {**other.machine, "kind": "RTX 4090"}}), file)
    held = read_baselines(file).machines
    assert held["2 cores, float32"] == baseline
    assert held["RTX 4090"].ratios[0].median == 5.0
    file.write_text('{"machines": 3}')
    with pytest.raises(ConfigError, match="is damaged"):
        read_baselines(file)
