"""What this machine gives is measured and kept, and what its runs took makes later forecasts surer."""

import json
from types import SimpleNamespace

import pytest

from peftkit import doctor, machine
from peftkit.plan import probe, rates
from peftkit.plan.calibration import Calibration, calibration_of, note
from peftkit.plan.cards import GIB, find_card
from peftkit.plan.probe import Rates
from peftkit.plan.rates import kept_rates, measure_and_keep, this_machine
from peftkit.plan.time import Range

FAST = Rates(half=4e14, single=5e13, copy=2e12, link=2e10, context=600 << 20)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))


def test_the_doctor_measures_and_keeps_what_the_forecast_then_takes() -> None:
    assert doctor.diagnose()["rates"] is None
    found = doctor.diagnose(measure=True)["rates"]
    assert found == doctor.diagnose()["rates"]
    assert min(found["half"], found["single"], found["copy"]) > 1e8
    card = this_machine()
    assert (card.tflops, card.float32, card.bandwidth) == (
        found["half"] / 1e12,
        found["single"] / 1e12,
        found["copy"],
    )
    assert card.flops(4) == pytest.approx(found["single"])
    assert card.flops(2) == pytest.approx(found["half"])
    assert card.here


def test_what_another_machine_or_version_kept_is_not_taken(monkeypatch) -> None:
    measure_and_keep()
    monkeypatch.setattr(machine, "key", lambda: "another machine")
    assert kept_rates() is None
    monkeypatch.setattr(rates, "measure", lambda: FAST)
    measure_and_keep()
    assert kept_rates() == FAST
    monkeypatch.undo()
    file = rates._file()
    file.write_text(json.dumps({machine.key(): {"speed": 1}}))
    assert kept_rates() is None
    file.write_text('{"torn')
    assert kept_rates() is None
    measure_and_keep()
    assert kept_rates() is not None


def test_a_gpu_is_taken_as_it_was_measured_and_with_what_is_free(monkeypatch) -> None:
    name, free = "NVIDIA GeForce RTX 4090 Laptop GPU", 10 * GIB
    monkeypatch.setattr(machine, "accelerator", lambda: (name, 16 * GIB))
    monkeypatch.setattr(machine, "free_cuda", lambda: free)
    monkeypatch.setattr(machine, "fast_dtype", lambda: "bfloat16")
    monkeypatch.setattr(rates, "kept_rates", lambda: FAST)
    card = this_machine()
    assert card.name == name
    assert card.memory == free + FAST.context
    assert 1.1 * FAST.half < 1e12 * card.tflops < 1.3 * FAST.half
    monkeypatch.setattr(rates, "kept_rates", lambda: None)
    monkeypatch.setattr(machine, "accelerator", lambda: ("NVIDIA L4", 22 * GIB))
    assert this_machine().tflops == find_card("L4").tflops


def test_what_cuda_keeps_is_what_another_process_takes_beside_what_torch_counts(monkeypatch) -> None:
    import torch

    free = iter((20 * GIB, 20 * GIB - (500 << 20)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (next(free), 24 * GIB))
    monkeypatch.setattr(probe, "_CHILD", "print(2 << 20, flush=True); input()")
    assert probe._context() == 498 << 20
    free = iter((20 * GIB, 20 * GIB))
    monkeypatch.setattr(probe, "_CHILD", "raise SystemExit(1)")
    assert probe._context() is None


def test_one_measurement_lasts_no_longer_than_it_must(monkeypatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    done = []
    assert probe._fastest("cpu", lambda: done.append(1)) == 1
    assert len(done) == 1 + probe._FEWEST


FORECAST = Range(1.0, 2.0, 4.0)


def test_runs_of_the_same_kind_make_the_range_narrower() -> None:
    note("llama nf4", 2.0, 3.0)
    one = calibration_of("llama nf4").applied(FORECAST)
    assert one.middle == 3.0
    assert one.high / one.low < FORECAST.high / FORECAST.low
    for measured in (3.1, 2.9, 3.0):
        note("llama nf4", 2.0, measured)
    four = calibration_of("llama nf4").applied(FORECAST)
    assert four.middle == pytest.approx(3.0)
    assert four.high / four.low < one.high / one.low
    note("llama nf4", 2.0, 9.0)  # one that was disturbed: it is told, until it is long ago
    assert calibration_of("llama nf4").applied(FORECAST).high == 9.0
    for _ in range(8):
        note("llama nf4", 2.0, 3.0)
    assert calibration_of("llama nf4").applied(FORECAST).high < 4


def test_runs_of_other_kinds_say_how_fast_the_machine_is_and_no_more() -> None:
    note("llama nf4", 2.0, 3.0)
    assert calibration_of("bert none").applied(FORECAST) == FORECAST.times(1.5)
    assert Calibration().applied(FORECAST) == FORECAST


def test_runs_on_another_machine_say_nothing(monkeypatch) -> None:
    note("llama nf4", 2.0, 3.0)
    monkeypatch.setattr(machine, "key", lambda: "another machine")
    assert calibration_of("llama nf4") == Calibration()
