"""Tables, comparisons and the page say what a result holds, and no more than that."""

import re

import pytest

from peftkit.bench.compare import compared
from peftkit.bench.page import write_page
from peftkit.bench.result import Run
from peftkit.bench.tables import show_result
from peftkit.ui import UI

from .results import result, three_rounds, turn


@pytest.fixture
def over_lengths():
    """Two lengths, of which the second does not fit for one; names that would be HTML."""
    components = {"base weights, 4-bit": 3 * 10**9, "saved activations": 10**9}
    runs = [
        turn("short", "peftkit", 1, 90.0, memory=4 * 10**9, losses=[3.0, 2.0], forecast={"components": components}),
        turn("short", "<b>TRL</b>", 1, 60.0, memory=9 * 10**9, losses=[3.0, 2.1]),
        turn("long", "peftkit", 1, 80.0, memory=8 * 10**9),
        Run(case="long", contestant="<b>TRL</b>", round=1, status="out of memory", reason="OutOfMemoryError: <full>"),
    ]
    cases = {
        name: {"rows": {"longest": size}, "quantization": "nf4"} for name, size in (("short", 512), ("long", 4096))
    }
    gpu = {"gpu": "RTX 4090", "gpu_memory": 25 * 10**9, "kind": "RTX 4090"}
    return result(runs, reference=None, cases=cases, machine=gpu, limit=12 << 30)


def test_a_page_is_one_file_that_loads_nothing(over_lengths, tmp_path):
    write_page([three_rounds(), over_lengths], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []
    assert "<b>TRL</b>" not in page
    assert "&lt;b&gt;TRL&lt;/b&gt;" in page
    assert "OutOfMemoryError: &lt;full&gt;" in page
    labels = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert any(one.startswith("Tokens per second without padding: peftkit in short 90") for one in labels)
    (memory,) = (one for one in labels if one.startswith("Peak memory over tokens"))
    assert "the limit is 12.9 GB" in memory
    assert "peftkit, nf4: 4.00 GB at 512, 8.00 GB at 4,096" in memory
    assert "9.00 GB at 512, out of memory at 4,096" in memory
    assert any("as forecast: peftkit, short: 4.00 GB" in one for one in labels)
    assert any(one.startswith("Loss of each step, short: peftkit from 3.000 to 2.000") for one in labels)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_speed_without_its_loss_is_marked(over_lengths, capsys):
    show_result(UI(), over_lengths)
    said = capsys.readouterr().out
    assert "loss not compared" in said
    assert "did not run" in said
    assert "out of memory, OutOfMemoryError: <full>" in said
    show_result(UI(), three_rounds(loss=1.5))
    said = capsys.readouterr().out
    assert "loss +50.0%" in said
    assert "so its speed does not count" in said


def test_values_are_compared_on_like_machines_only():
    first, second = three_rounds(speed=2.0), three_rounds(speed=3.0)
    found = compared(first, second)
    assert found["why_not"] is None
    speeds = {one["contestant"]: one["change"] for one in found["values"] if one["measure"] == "tokens_per_second"}
    assert speeds == {"peftkit": 1.5, "TRL": 1.0}
    ratio = next(one for one in found["ratios"] if one["measure"] == "tokens_per_second")
    assert (ratio["first"], ratio["second"], ratio["change"]) == (2.0, 3.0, 1.5)
    elsewhere = second.model_copy(update={"machine": {**second.machine, "cpu": "Another"}})
    found = compared(first, elsewhere)
    assert found["why_not"] == "they are of different processors (A processor; Another)"
    assert {one["change"] for one in found["values"]} == {None}
    assert ratio in found["ratios"]
