"""The page of one result or several: tables, charts and settings in one self-contained file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peftkit.bench.charts import charts_of
from peftkit.bench.result import Result
from peftkit.bench.tables import FORMULA, cells, columns_of, failures, ratio_row, remark, said_of
from peftkit.evaluate.template import page_template
from peftkit.evaluate.wording import size, when
from peftkit.rundir import write_text

PAGE = "page.html"


def write_page(results: Sequence[Result], file: Path) -> None:
    """Write the page of some results.

    Raises:
        OutputError: It cannot be written.
    """
    page = page_template("peftkit.bench", "bench.html.j2", size=size, when=when).render(
        parts=[_part(result, f"r{number}") for number, result in enumerate(results)],
        formula=FORMULA,
        version=version("peftkit"),
    )
    write_text(file, page)


def _part(result: Result, prefix: str) -> dict[str, Any]:
    columns = columns_of(result.medians)
    return {
        "id": prefix,
        "result": result,
        "columns": [one.title for one in columns],
        "rows": [(one.case, one.contestant, cells(one, columns), remark(result, one)) for one in result.medians],
        "ratios": [ratio_row(one) for one in result.ratios],
        "quality": [(said_of(one), one.equal) for one in result.quality],
        "failures": failures(result),
        "charts": charts_of(result, prefix),
        "facts": _facts(result),
        "settings": json.dumps(result.settings.get("cases", result.settings), indent=2, ensure_ascii=False),
        "with_mfu": any(row.measures.get("mfu") is not None for row in result.medians),
    }


def _facts(result: Result) -> list[tuple[str, str]]:
    """Return where a result was measured, as names and values."""
    machine, rate = result.machine, result.peak_rate or {}
    state = ", ".join(f"{name} {value}" for name, value in (result.gpu_state or {}).items())
    facts = [
        ("Machine", f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"),
        ("Kind", str(machine["kind"])),
        ("Memory", size(machine["gpu_memory"] or machine["memory"])),
        ("Limit", size(result.limit) if result.limit else ""),
        ("Matrix products", f"{rate['flops'] / 1e9:,.0f} GFLOP/s, {rate['source']}" if rate else ""),
        ("Clocks and power", state),
        ("Versions", ", ".join(f"{name} {one}" for name, one in result.versions.items())),
        ("Commit", result.commit or ""),
        ("Command", result.command),
    ]
    return [(name, value) for name, value in facts if value]
