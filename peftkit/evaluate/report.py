"""`report.html`: what a run reached, what it got wrong, how it trained and what it cost, in one self-contained file.

The report is written from the files of the run's folder alone, so it can be written again at any time. The page loads
nothing, from the network or from disk, and every text from a model or a data file is escaped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.errors import OutputError
from peftkit.evaluate import charts
from peftkit.evaluate.charts import Comparison, Estimate, finite
from peftkit.evaluate.row_charts import row_charts
from peftkit.evaluate.wording import (
    NOTHING,
    count,
    duration,
    number,
    p_value,
    percent,
    show_estimate,
    show_interval,
    signed,
    size,
    text,
    when,
)
from peftkit.rundir import RunFolder, atomic, read_json

Json = Mapping[str, Any]

MOST_ROWS = 20  # rows shown with their answers
MOST_LABELS = 12  # labels of a confusion matrix; the rarest of more stand together
MOST_TOKENS = 600  # tokens shown of the example
MOST_REJECTIONS = 20
CUT = 400  # characters of a text shown before the rest is folded away


@dataclass(frozen=True)
class Verdict:
    """The sentence at the head of the report, and how it is coloured: good, bad or neutral."""

    sentence: str
    tone: str


@dataclass(frozen=True)
class Matrix:
    """Counts of answers: a row for each expected label, a column for each answered one and for invalid answers."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[int]]]


@dataclass(frozen=True)
class RowGroup:
    """Test rows of one kind (`fixed`, `broken`, `wrong` or `sample`): how many there are, and those worth reading."""

    kind: str
    title: str
    count: int
    rows: list[Json]


def write_report(run: Path) -> Path:
    """Read a run's folder and write its `report.html`, replacing an older one in one step.

    Raises:
        OutputError: `summary.json` is missing or damaged, or the report cannot be written.
    """
    path = RunFolder(run).report
    page = render(run).encode("utf-8", errors="replace")  # a model's answer may hold half of a surrogate pair
    with atomic(path) as temporary:
        temporary.write_bytes(page)
    return path


def render(run: Path) -> str:
    """Give the page for a run's folder as HTML."""
    import jinja2

    folder = RunFolder(run)
    if not folder.summary.is_file():
        raise OutputError(
            f"'{run}' has no summary.json, so there is nothing to report; give the folder of a finished run"
        )
    summary = read_json(folder.summary)
    if not isinstance(summary, dict):
        raise OutputError(f"'{folder.summary}' is damaged: it holds no JSON object")
    notes: list[str] = []
    data = _read_data(folder.data, notes)
    predictions = _read_lines(folder.predictions, notes)
    metrics = _read_lines(folder.metrics, notes)
    comparisons = compare_metrics(summary)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # a part that a run has not measured is left out
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "size": size, "duration": duration, "count": count, "when": when}
    environment.filters |= {"estimate": show_estimate, "interval": show_interval, "number": number}
    environment.filters |= {"signed": signed, "p_value": p_value, "text": text}
    return environment.get_template("report.html.j2").render(
        summary=summary,
        data=data,
        verdict=verdict(comparisons),
        cautions=cautions(data),
        comparisons=comparisons,
        comparison_charts=charts.comparison_charts(comparisons),
        matrices=confusion_matrices(predictions),
        labels=label_rows(summary),
        grouped=grouped(summary),
        row_charts=row_charts(predictions),
        groups=informative_rows(predictions),
        margin=margin,
        scored=any(_margin_change(row) >= 0 for row in predictions),
        training_charts=charts.training_charts(metrics),
        length_chart=charts.length_chart(_section(data, "length_histogram")),
        stage_chart=charts.stage_chart(_section(_section(summary, "time"), "stages")),
        costs=_costs(summary),
        retries=memory_retries(summary),
        config=folder.config.read_text("utf-8", errors="replace") if folder.config.is_file() else None,
        notes=notes,
        limits={"cut": CUT, "tokens": MOST_TOKENS, "rejections": MOST_REJECTIONS},
    )


def compare_metrics(summary: Json) -> list[Comparison]:
    """Give every metric of the summary, in its order."""
    before, after, difference = (_section(summary, key) for key in ("before", "after", "difference"))
    described = _section(summary, "metrics")
    comparisons = []
    for key in dict.fromkeys([*described, *after, *before]):
        estimates = [_estimate(part.get(key)) for part in (before, after, difference)]
        if estimates[0] or estimates[1]:
            one = _section(described, key)
            name, better = str(one.get("name", key)), str(one.get("better", "neither"))
            comparisons.append(Comparison(key, name, one.get("percent") is True, better, *estimates))
    return comparisons


def verdict(comparisons: Sequence[Comparison]) -> Verdict:
    """Say in one sentence whether the first metric changed; the interval of the difference decides."""
    if not comparisons:
        return Verdict("This run was not evaluated on held-out rows.", "neutral")
    item = comparisons[0]
    n = (item.after and item.after.n) or (item.before and item.before.n)
    subject = item.name + (f" on {count(n)} held-out rows" if n else "")
    if item.before is None or item.after is None:
        only = item.after or item.before
        part = "after" if item.after else "before"
        return Verdict(
            f"{subject} is {show_estimate(only, item.percent)} {part} training; "
            f"it was not measured {'before' if item.after else 'after'}.",
            "neutral",
        )
    values = f"from {show_estimate(item.before, item.percent)} to {show_estimate(item.after, item.percent)}"
    change = item.difference
    if change is None or change.low is None or change.high is None:
        return Verdict(f"{subject} went {values}; the interval of the difference was not measured.", "neutral")
    unit = " points" if item.percent else ""
    interval = show_interval(change, item.percent)
    figures = f"({show_estimate(change, item.percent, signed=True)}{unit}, 95% interval {interval})"
    if change.low <= 0 <= change.high:
        return Verdict(f"{subject} shows no measurable change: {values} {figures}.", "neutral")
    return Verdict(f"{subject} {'rose' if change.low > 0 else 'fell'} {values} {figures}.", item.tone)


def cautions(data: Json) -> list[str]:
    """Say what in the data weakens the verdict or the training."""
    said = {
        "overlap": "{} rows are in more than one split, so the figures after training may be too good",
        "fully_masked": "{} training rows have no token to train on",
    }
    found = [f"{text.format(count(data[key]))}." for key, text in said.items() if finite(data.get(key))]
    if data.get("end_token_trained") is False:
        found.append("the token that ends an answer is not trained, so the model may not stop.")
    return found


def confusion_matrices(predictions: Sequence[Json]) -> list[Matrix]:
    """Count expected against answered labels, before and after; no matrix where no answer was read as a label."""
    matrices = []
    for stage, title in (("before", "Before training"), ("after", "After training")):
        pairs: Counter[tuple[str, str | None]] = Counter()
        for row in predictions:
            answer = _section(row, stage)
            if "label" in answer and isinstance(row.get("expected"), str):
                label = answer["label"]
                pairs[row["expected"], None if label is None else str(label)] += 1
        matrices.append((title, pairs))
    expected = Counter(label for _, pairs in matrices for (label, _), n in pairs.items() for _ in range(n))
    answered = {label for _, pairs in matrices for (_, label) in pairs if label is not None}
    if not answered:
        return []
    labels = sorted(expected.keys() | answered)
    if len(labels) > MOST_LABELS:
        common = sorted(labels, key=lambda label: (-expected[label], label))[: MOST_LABELS - 1]
        labels = [*sorted(common), f"{len(labels) - len(common)} others"]
    return [_matrix(title, pairs, labels) for title, pairs in matrices if pairs]


@dataclass(frozen=True)
class Grouped:
    """Every metric in each group of rows, and what is said of groups that are served worse."""

    column: str
    groups: list[tuple[str, int, list[Comparison]]]
    worse: list[str]


def label_rows(summary: Json) -> list[tuple[str, Json, Json]]:
    """Give each label with its precision, recall, F1 and support before and after training."""
    before, after = (_section(_section(summary, "per_label"), which) for which in ("before", "after"))
    return [(label, _section(before, label), _section(after, label)) for label in dict.fromkeys([*before, *after])]


def grouped(summary: Json) -> Grouped | None:
    """Give the comparison of each group of rows; None where rows were not grouped."""
    by_group = _section(summary, "by_group")
    if not by_group:
        return None
    described = {"metrics": _section(summary, "metrics")}
    groups = []
    for name, found in _section(by_group, "groups").items():
        part = found if isinstance(found, dict) else {}
        groups.append((name, int(finite(part.get("n")) or 0), compare_metrics(described | part)))
    worse = []
    for which in ("before", "after"):
        for one in _section(by_group, "worse").get(which) or []:
            gap, item = _estimate(one), _section(described["metrics"], one.get("metric", ""))
            in_percent = item.get("percent") is True
            worse.append(
                f"{which} training, {one.get('group')} is served worse than the other rows: {item.get('name')} "
                f"{show_estimate(gap, in_percent, signed=True)}{' points' if in_percent else ''} "
                f"(95% interval {show_interval(gap, in_percent)})"
            )
    return Grouped(str(by_group.get("column")), groups, worse)


def _matrix(title: str, pairs: Counter[tuple[str, str | None]], labels: list[str]) -> Matrix:
    counts = [[0] * (len(labels) + 1) for _ in labels]
    place = {label: position for position, label in enumerate(labels)}
    for (label, answer), n in pairs.items():
        column = len(labels) if answer is None else place.get(answer, len(labels) - 1)
        counts[place.get(label, len(labels) - 1)][column] += n
    invalid = any(row[-1] for row in counts)
    columns = [*labels, "invalid"] if invalid else labels
    rows = [(label, row if invalid else row[:-1]) for label, row in zip(labels, counts, strict=True)]
    return Matrix(title, columns, [row for row in rows if any(row[1])])


def informative_rows(predictions: Sequence[Json], limit: int = MOST_ROWS) -> list[RowGroup]:
    """Pick the rows worth reading: broken, fixed and still wrong ones in turn, the largest change of margin first.

    Taken in turn, so that a few broken rows are seen beside hundreds of fixed ones. Where no answer was judged, the
    first rows stand for all.
    """
    groups: dict[str, list[Json]] = {"fixed": [], "broken": [], "wrong": [], "sample": []}
    for row in predictions:
        was, now = _section(row, "before").get("correct"), _section(row, "after").get("correct")
        if now is True and was is False:
            groups["fixed"].append(row)
        elif now is False:
            groups["broken" if was is True else "wrong"].append(row)
        elif now is None:
            groups["sample"].append(row)
    if any(groups[kind] for kind in ("fixed", "broken", "wrong")):
        groups["sample"] = []
    for kind in ("fixed", "broken", "wrong"):
        groups[kind].sort(key=_margin_change, reverse=True)  # stable: equal changes keep the file's order
    taken = dict.fromkeys(groups, 0)
    while sum(taken.values()) < limit and any(taken[kind] < len(groups[kind]) for kind in groups):
        for kind in groups:
            if taken[kind] < len(groups[kind]) and sum(taken.values()) < limit:
                taken[kind] += 1
    titles = {"fixed": "Fixed", "broken": "Broken", "wrong": "Still wrong", "sample": "Sample answers"}
    return [RowGroup(k, titles[k], len(groups[k]), groups[k][: taken[k]]) for k in groups if groups[k]]


def margin(row: Json, stage: str) -> float | None:
    """Give by how much the expected label's log-likelihood leads the best other one, in nats; None without scores."""
    scores = {label: finite(score) for label, score in _section(_section(row, stage), "scores").items()}
    expected = scores.pop(str(row.get("expected")), None)
    others = [score for score in scores.values() if score is not None]
    return None if expected is None or not others else expected - max(others)


def _margin_change(row: Json) -> float:
    before, after = margin(row, "before"), margin(row, "after")
    return -1.0 if before is None or after is None else abs(after - before)


def _costs(summary: Json) -> list[tuple[str, str]]:
    memory, adapter = _section(summary, "memory"), _section(summary, "adapter")
    trainable, total = finite(adapter.get("trainable_parameters")), finite(adapter.get("total_parameters"))
    share = f" ({percent(trainable / total, 2)})" if trainable and total else ""
    forecast = _section(summary, "forecast")
    shown = [
        ("Total time", duration(_section(summary, "time").get("total"))),
        ("Tokens per second", count(summary.get("tokens_per_second"))),
        ("Time forecast at its start", duration(forecast.get("total_seconds"))),
        ("Peak memory forecast at its start", size(forecast.get("memory"))),
        ("Peak memory of the process", size(memory.get("peak_rss"))),
        ("Peak GPU memory, allocated", size(memory.get("peak_cuda_allocated"))),
        ("Peak GPU memory, reserved", size(memory.get("peak_cuda_reserved"))),
        ("Adapter size", size(adapter.get("bytes"))),
        ("Trainable parameters", count(trainable) + share),
        ("Total parameters", count(total)),
    ]
    return [(label, value) for label, value in shown if value != NOTHING]


def memory_retries(summary: Json) -> list[str]:
    """Say of each time that memory ran out where that was, and what was smaller from then on."""
    said = []
    for one in summary.get("memory_retries") or []:
        if not isinstance(one, dict):
            continue
        after = "was tried once more"
        if finite(one.get("passes")):
            after = f"{count(one.get('rows'))} rows at once, {count(one['passes'])} passes to a step"
        elif finite(one.get("judged")):
            after = f"{count(one['judged'])} rows judged at once"
        elif one.get("where") == "save":
            after = "not saved"
        said.append(f"{one.get('where')}, after step {count(one.get('step'))}: {after} ({one.get('said')})")
    return said


def _estimate(value: object) -> Estimate | None:
    part = value if isinstance(value, dict) else {"value": value}
    known, n = finite(part.get("value")), finite(part.get("n"))
    if known is None:
        return None
    return Estimate(known, finite(part.get("low")), finite(part.get("high")), None if n is None else int(n))


def _section(parent: Json, key: str) -> Json:
    part = parent.get(key)
    return part if isinstance(part, dict) else {}


def _read_data(path: Path, notes: list[str]) -> Json:
    if not path.is_file():
        return {}
    try:
        data = read_json(path)
    except OutputError as error:
        notes.append(f"{error}; the section on the data is left out")
        return {}
    return data if isinstance(data, dict) else {}


def _read_lines(path: Path, notes: list[str]) -> list[Json]:
    if not path.is_file():
        return []
    rows: list[Json] = []
    lines = path.read_text("utf-8", errors="replace").split("\n")
    for line_number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            row = None
            if line_number < len(lines):  # a last line without its end is one that a stopped run had begun
                notes.append(f"{path.name}, line {line_number}, is damaged and left out")
        if isinstance(row, dict):
            rows.append(row)
    return rows
