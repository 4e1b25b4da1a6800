import json
import re
import shutil
from pathlib import Path

import pytest

from peftkit.errors import OutputError
from peftkit.evaluate.charts import smooth
from peftkit.evaluate.report import (
    compare_metrics,
    confusion_matrices,
    duration,
    grouped,
    informative_rows,
    label_rows,
    margin,
    p_value,
    size,
    verdict,
    write_report,
)
from peftkit.evaluate.row_charts import row_charts
from peftkit.evaluate.wording import text

from . import sample_run


def page_of(run):
    return write_report(run).read_text("utf-8")


ACCURACY = {"name": "Accuracy", "percent": True, "better": "higher"}
PERPLEXITY = {"name": "Perplexity", "percent": False, "better": "lower"}


def outcome(before, after, low, high, metric="accuracy"):
    summary = {
        "before": {metric: {"value": before, "low": before - 0.02, "high": before + 0.02, "n": 400}},
        "after": {metric: {"value": after, "low": after - 0.02, "high": after + 0.02, "n": 400}},
        "difference": {metric: {"value": after - before, "low": low, "high": high, "n": 400}},
        "metrics": {"accuracy": ACCURACY, "perplexity": PERPLEXITY},
    }
    return verdict(compare_metrics(summary))


def row(number, was, now, scores_before=None, scores_after=None):
    return {
        "row": number,
        "expected": "a",
        "before": {"answer": "?", "correct": was, "scores": scores_before},
        "after": {"answer": "!", "correct": now, "scores": scores_after},
    }


def test_the_verdict_of_the_sample_run_is_the_plain_sentence():
    said = verdict(compare_metrics(sample_run.summary()))
    assert said.sentence == (
        "Accuracy on 400 held-out rows rose from 2.0% to 86.5% (+84.5 points, 95% interval 80.9 to 88.1)."
    )
    assert said.tone == "good"


def test_the_verdict_says_fell_below_zero():
    said = outcome(0.60, 0.50, -0.14, -0.06)
    assert said.sentence.replace("\N{MINUS SIGN}", "-") == (
        "Accuracy on 400 held-out rows fell from 60.0% to 50.0% (-10.0 points, 95% interval -14.0 to -6.0)."
    )
    assert said.tone == "bad"


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.04), (0.0, 0.03), (-0.03, 0.0)])
def test_an_interval_with_zero_is_no_measurable_change(low, high):
    said = outcome(0.50, 0.51, low, high)
    assert said.sentence.startswith("Accuracy on 400 held-out rows shows no measurable change: from 50.0% to 51.0%")
    assert said.tone == "neutral"


def test_the_verdict_claims_nothing_that_was_not_measured():
    assert verdict([]).sentence == "This run was not evaluated on held-out rows."
    only_after = verdict(
        compare_metrics({"metrics": {"accuracy": ACCURACY}, "after": {"accuracy": {"value": 0.5, "n": 1200}}})
    )
    assert only_after.sentence == (
        "Accuracy on 1,200 held-out rows is 50.0% after training; it was not measured before."
    )
    no_interval = verdict(compare_metrics({"before": {"accuracy": 0.5}, "after": {"accuracy": 0.75}}))
    assert "the interval of the difference was not measured" in no_interval.sentence


def test_a_metric_that_falls_for_the_better_is_good():
    said = outcome(3.14159, 2.0, -1.3, -1.0, metric="perplexity")
    assert said.sentence.startswith(
        "Perplexity on 400 held-out rows fell from 3.142 to 2 (\N{MINUS SIGN}1.142, 95% interval"
    )
    assert said.tone == "good"
    assert outcome(2.0, 3.0, 0.5, 1.5, metric="perplexity").tone == "bad"


def test_a_metric_that_the_summary_does_not_describe_keeps_its_key_and_has_no_good_direction():
    said = outcome(3.0, 2.0, -1.3, -1.0, metric="oddness")
    assert said.sentence.startswith("oddness on 400 held-out rows fell from 3 to 2")
    assert said.tone == "neutral"


def test_metrics_stand_in_the_order_of_the_summary():
    part = {"bleu": {"value": 1.0}, "accuracy": {"value": 0.2}}
    found = compare_metrics({"metrics": {"accuracy": ACCURACY}, "after": part})
    assert [item.key for item in found] == ["accuracy", "bleu"]


def test_the_margin_is_the_lead_over_the_best_other_label():
    scored = row(0, False, True, {"a": -3.0, "b": -1.0, "c": -0.5}, {"a": -0.5, "b": -2.0})
    assert margin(scored, "before") == -2.5
    assert margin(scored, "after") == 1.5
    assert margin(row(0, False, True), "after") is None
    assert margin(row(0, False, True, {"a": -1.0}), "before") is None


def test_rows_are_ranked_by_the_change_of_the_margin_within_their_kind():
    rows = [
        row(0, False, True, {"a": -1.0, "b": 0.0}, {"a": 0.0, "b": -1.0}),
        row(1, False, True),
        row(2, False, True, {"a": -4.0, "b": 0.0}, {"a": 0.0, "b": -4.0}),
        row(3, True, False, {"a": 0.0, "b": -1.0}, {"a": -1.0, "b": 0.0}),
        row(4, False, False, {"a": -1.0, "b": 0.0}, {"a": -1.1, "b": 0.0}),
        row(5, False, False, {"a": -1.0, "b": 0.0}, {"a": -9.0, "b": 0.0}),
        row(6, True, True),
    ]
    shown = {group.kind: [entry["row"] for entry in group.rows] for group in informative_rows(rows)}
    assert shown == {"fixed": [2, 0, 1], "broken": [3], "wrong": [5, 4]}


def test_a_few_broken_rows_are_not_crowded_out_by_many_fixed_ones():
    rows = [row(n, False, True) for n in range(300)] + [row(n, True, False) for n in range(300, 303)]
    groups = informative_rows(rows)
    assert [(group.kind, group.count, len(group.rows)) for group in groups] == [("fixed", 300, 17), ("broken", 3, 3)]
    assert [entry["row"] for entry in groups[0].rows] == list(range(17))


def test_answers_that_nobody_judged_are_a_sample():
    rows = [{"row": n, "expected": "x", "before": {"answer": "y"}, "after": {"answer": "z"}} for n in range(30)]
    (group,) = informative_rows(rows)
    assert (group.kind, group.count, len(group.rows)) == ("sample", 30, 20)


def test_confusion_matrices_count_every_answer():
    rows = [
        {"expected": "a", "before": {"label": None}, "after": {"label": "a"}},
        {"expected": "a", "before": {"label": "b"}, "after": {"label": "a"}},
        {"expected": "b", "before": {"label": "b"}, "after": {"label": "a"}},
    ]
    before, after = confusion_matrices(rows)
    assert before.columns == ["a", "b", "invalid"]
    assert before.rows == [("a", [0, 1, 1]), ("b", [0, 1, 0])]
    assert after.columns == ["a", "b"]
    assert after.rows == [("a", [2, 0]), ("b", [1, 0])]


def test_many_labels_are_gathered_and_none_is_lost():
    rows = [
        {"expected": f"l{n % 40:02}", "before": {"label": None}, "after": {"label": f"l{n % 40:02}"}}
        for n in range(200)
    ]
    before, after = confusion_matrices(rows)
    assert before.columns[-2:] == ["29 others", "invalid"]
    assert after.columns[-1] == "29 others"
    assert sum(sum(counts) for _, counts in after.rows) == 200
    assert after.rows[-1] == ("29 others", [0] * 11 + [145])


def test_generated_text_without_labels_has_answers_but_no_matrix(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    line = {
        "row": 0,
        "columns": {"question": "2+2?"},
        "expected": "4",
        "before": {"answer": "22"},
        "after": {"answer": "4"},
    }
    sample_run.write_lines(run / "predictions.jsonl", [line])
    page = page_of(run)
    assert 'id="matrices"' not in page
    assert "2+2?" in page
    assert "Sample answers" in page


def test_the_page_shows_what_the_run_measured(tmp_path):
    page = page_of(sample_run.write_run(tmp_path / "run"))
    for shown in (
        "rose from 2.0% to 86.5% (+84.5 points, 95% interval 80.9 to 88.1)",
        "sentiment on smollm2-135m-instruct",
        "quantization nf4",
        "2026-11-23 19:45 UTC",
        "Accuracy (by label likelihood)",
        "fixed 340",
        "broke 2",
        "p &lt; 0.001",
        "6 min 42 s",
        "19.6 MB",
        "4,884,480 (3.50%)",
        "&#39;postive&#39; is none of negative, positive",
        "<mark>positive</mark>",
        "learning_rate: 0.0002",
    ):
        assert shown in page, shown
    sections = ["metrics", "matrices", "rows", "training", "data", "cost", "configuration"]
    assert re.findall(r'<section id="(\w+)"', page) == sections
    assert page.count("<article") == 20
    charts = [match.split("-figure_1")[0] for match in re.findall(r'id="(\w+-figure_1)"', page)]
    assert charts == ["comparison", "difference", "loss", "rate", "speed", "memory", "lengths", "stages"]
    assert page.count("aria-label=") >= len(charts)


def test_ids_are_unique_and_every_reference_within_the_page_is_met(tmp_path):
    page = page_of(sample_run.write_run(tmp_path / "run"))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-labelledby="([^"]+)"', page))
    for reference in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page):
        assert reference in ids


def test_the_page_loads_nothing(tmp_path):
    page = page_of(sample_run.write_run(tmp_path / "run"))
    assert not re.search(r"""\b(src|srcset|action|poster)\s*=""", page)
    assert not re.search(r"""href\s*=\s*["'](?!#|data:,)""", page)
    assert not re.search(r"@import|<script|<link(?! rel=\"icon\")|url\((?!#)", page)
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, never loaded
    assert "default-src 'none'" in page


def test_every_text_of_others_is_escaped(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    attack = """<script>alert("1")</script><img src=x onerror='a'>"""
    summary = sample_run.summary()
    summary |= {"recipe": attack, "model": attack, "preset": attack, "started": attack, "versions": {attack: attack}}
    summary["machine"]["cpu"] = attack
    summary["after"][attack] = {"value": 0.5, "n": 3}
    summary["time"]["stages"][attack] = 4.0
    data = sample_run.data()
    data["source"] = dict.fromkeys(("name", "path", "sha256", "licence"), attack)
    data["rejections"] = [{"where": attack, "column": attack, "reason": attack}]
    data["splits"]["train"]["labels"] = {attack: 1}
    data["example"]["tokens"] = [{"text": attack, "trained": True}]
    line = {"row": 0, "where": attack, "columns": {attack: attack * 40}, "expected": attack}
    line |= {stage: {"answer": attack, "label": attack, "correct": False} for stage in ("before", "after")}
    sample_run.write_json(run / "summary.json", summary)
    sample_run.write_json(run / "data.json", data)
    sample_run.write_lines(run / "predictions.jsonl", [line])
    (run / "config.yaml").write_text(attack)
    page = page_of(run)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") > 20


def test_a_long_text_is_cut_and_the_rest_is_folded_away(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    line = {
        "row": 0,
        "columns": {"text": "x" * 400 + "y" * 1234},
        "expected": "a",
        "after": {"answer": "", "correct": False},
    }
    sample_run.write_lines(run / "predictions.jsonl", [line])
    page = page_of(run)
    assert "x" * 400 + "…</span><details><summary>the other 1,234 characters</summary>" in page
    assert "y" * 1234 in page
    assert "(empty)" in page


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("metrics.jsonl", {"training"}),
        ("predictions.jsonl", {"matrices", "rows"}),
        ("data.json", {"data"}),
        ("config.yaml", set()),
    ],
)
def test_a_missing_file_leaves_out_its_sections_only(tmp_path, name, sections):
    run = sample_run.write_run(tmp_path / "run")
    whole = set(re.findall(r'<section id="(\w+)"', page_of(run)))
    (run / name).unlink()
    page = page_of(run)
    assert whole - set(re.findall(r'<section id="(\w+)"', page)) == sections
    assert {link for link in re.findall(r'href="#(\w+)"', page) if link in whole} == whole - sections


def test_any_key_may_be_absent_or_null(tmp_path, monkeypatch):
    for module in ("charts", "row_charts"):  # hundreds of charts take a minute
        monkeypatch.setattr(f"peftkit.evaluate.{module}.chart", lambda *given: given[1])
    run = sample_run.write_run(tmp_path / "run")
    for name in ("summary", "data"):
        full = getattr(sample_run, name)()
        paths = [(key,) for key in full] + [(k, inner) for k, v in full.items() if isinstance(v, dict) for inner in v]
        for empty in ({}, dict.fromkeys(full)):
            sample_run.write_json(run / f"{name}.json", empty)
            assert "</html>" in page_of(run)
        for path in paths:
            part = json.loads(json.dumps(full))
            parent = part
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = None
            sample_run.write_json(run / f"{name}.json", part)
            assert "</html>" in page_of(run), path
        sample_run.write_json(run / f"{name}.json", full)


def test_a_folder_without_a_summary_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(OutputError, match=r"has no summary\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(OutputError, match="is damaged"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_torn_last_line_is_ignored_and_a_damaged_one_is_named(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    whole = page_of(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 121, "lo')
    assert page_of(run) == whole
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 121, "loss": NaN}\n')
    assert "metrics.jsonl, line 121, is damaged and left out" in page_of(run)


def test_a_resumed_run_counts_each_step_once(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    lines = sample_run.metrics()
    sample_run.write_lines(run / "metrics.jsonl", lines)
    whole = page_of(run)
    sample_run.write_lines(run / "metrics.jsonl", [{**line, "loss": 99.0} for line in lines[:50]] + lines)
    assert page_of(run) == whole
    again = lines[:60] + [{**line, "seconds": line["seconds"] - 100} for line in lines[60:]]
    sample_run.write_lines(run / "metrics.jsonl", again)
    assert "Memory (GB) over Step" in page_of(run)
    assert "Memory (GB) over Time (seconds)" in whole


def test_equal_input_gives_equal_bytes_and_no_temporary_file(tmp_path):
    first = sample_run.write_run(tmp_path / "first")
    second = Path(shutil.copytree(first, tmp_path / "second"))
    before = write_report(first).read_bytes()
    assert write_report(second).read_bytes() == before
    assert write_report(first).read_bytes() == before
    assert sorted(path.name for path in first.iterdir()) == sorted(
        ["config.yaml", "data.json", "metrics.jsonl", "predictions.jsonl", "report.html", "summary.json"]
    )


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    (run / "predictions.jsonl").write_text(
        '{"row": 1, "expected": "a", "after": {"answer": "\\ud83d", "correct": false}}\n'
    )
    assert "</html>" in page_of(run)


def test_cautions_stand_under_the_verdict(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    assert "Caution" not in page_of(run)
    sample_run.write_json(run / "data.json", {**sample_run.data(), "overlap": 7, "end_token_trained": False})
    page = page_of(run)
    assert "7 rows are in more than one split" in page
    assert "the token that ends an answer is not trained" in page


def test_smoothing_keeps_a_constant_and_follows_a_slope():
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)
    line = [float(n) for n in range(200)]
    assert smooth(line)[:190] == pytest.approx(line[:190])
    assert smooth([]) == []


def test_units():
    assert [size(value) for value in (19_600_000, 1_900_000_000, 812, None)] == [
        "19.6 MB",
        "1.9 GB",
        "812 bytes",
        "\N{EN DASH}",
    ]
    assert [duration(value) for value in (3.14, 402.1, 7322, "?")] == [
        "3.1 s",
        "6 min 42 s",
        "2 h 2 min",
        "\N{EN DASH}",
    ]
    assert [p_value(value) for value in (1e-80, 0.04, None)] == ["< 0.001", "= 0.040", "\N{EN DASH}"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium with its chromedriver on the PATH (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_browser_shows_the_page_whole(browser, tmp_path, width, height, scheme):
    run = sample_run.write_run(tmp_path / "run")
    lines = sample_run.predictions()
    lines[0]["after"] = {"answer": "unbroken" * 200, "label": None, "correct": False, "scores": None}
    sample_run.write_lines(run / "predictions.jsonl", lines)
    path = write_report(run)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    ask = browser.execute_script
    assert browser.get_log("browser") == []
    assert ask("return innerWidth") == width
    assert ask("return document.documentElement.scrollWidth <= innerWidth")
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert asked <= {path.as_uri(), "data:,"}
    assert ask("return document.querySelectorAll('svg.chart').length") == 8
    assert ask(
        "return [...document.querySelectorAll('svg.chart')].every(c => c.getBoundingClientRect().right <= innerWidth)"
    )
    # the charts' text has the page's colour of this scheme, and the ground is light or dark as asked
    ink = "return getComputedStyle(document.querySelector('svg.chart text')).fill"
    ground = "return getComputedStyle(document.body).backgroundColor"
    brightness = [sum(map(int, re.findall(r"\d+", ask(script))[:3])) for script in (ink, ground)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    heights = "[...document.querySelectorAll('svg.chart text')].map(text => text.getBoundingClientRect().height)"
    assert min(ask(f"return {heights}")) >= 10  # line height in pixels, for text of 9 pixels or more


def interval(value, low, high, n=20):
    return {"value": value, "low": low, "high": high, "n": n}


def test_labels_and_groups_have_tables():
    figures = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 40}
    described = {"accuracy": ACCURACY}
    sides = {
        "before": {"accuracy": interval(0.1, 0.0, 0.2)},
        "after": {"accuracy": interval(0.6, 0.5, 0.7)},
        "difference": {"accuracy": interval(0.5, 0.4, 0.6)},
    }
    summary = {
        "metrics": described,
        "per_label": {"before": {"spam": figures}, "after": {"spam": figures | {"recall": 0.875}}},
        "by_group": {
            "column": "country",
            "groups": {"<AT>": {"n": 20, **sides}, "DE": {"n": 60, **sides}},
            "worse": {"before": [], "after": [{"group": "<AT>", "metric": "accuracy", **interval(-0.2, -0.3, -0.1)}]},
        },
    }
    assert label_rows(summary) == [("spam", figures, figures | {"recall": 0.875})]
    found = grouped(summary)
    assert [(name, n, [item.key for item in items]) for name, n, items in found.groups] == [
        ("<AT>", 20, ["accuracy"]),
        ("DE", 60, ["accuracy"]),
    ]
    assert found.worse == [
        "after training, <AT> is served worse than the other rows: Accuracy \N{MINUS SIGN}20.0 points "
        "(95% interval \N{MINUS SIGN}30.0 to \N{MINUS SIGN}10.0)"
    ]
    assert grouped({}) is None
    assert label_rows({}) == []


def test_scores_and_losses_are_drawn_for_each_row():
    scored = [{"expected": str(n), "before": {"value": 0.0}, "after": {"value": n + 0.5}} for n in range(5)]
    told = [{"expected": "", "before": {"nll": 8.0, "tokens": 4}, "after": {"nll": 4.0, "tokens": 4}}] * 3
    assert "given scores of 5 held-out rows" in row_charts(scored)[0]
    assert "Loss of 3 held-out rows before and after; 3 fell" in row_charts(told)[0]
    assert row_charts([{"expected": "a", "after": {"answer": "b"}}]) == []


def test_rows_that_were_told_and_not_asked_show_their_loss(tmp_path):
    run = sample_run.write_run(tmp_path / "run")
    told = {"row": 1, "columns": {"text": "some words"}, "expected": ""}
    told |= {"before": {"nll": 8.0, "tokens": 4, "hits": 1}, "after": {"nll": 5.0, "tokens": 4, "hits": 2}}
    sample_run.write_lines(run / "predictions.jsonl", [told])
    page = page_of(run)
    rows = page[page.index('<section id="rows"') :]
    assert "2 nats per token" in rows
    assert "1.25 nats per token" in rows
    assert "Expected</h4>" not in rows


def test_a_conversation_is_shown_turn_by_turn():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert text(turns) == "user: Hi\n\nassistant: Hello"
    assert text([{"role": "user"}]) == '[{"role": "user"}]'
