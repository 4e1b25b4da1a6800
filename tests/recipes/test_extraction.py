"""Log lines that say what their JSON says, and metrics of JSON by hand."""

import json
from datetime import datetime

import pytest

from peftkit.evaluate.answers import Answer
from peftkit.evaluate.compare import compare
from peftkit.evaluate.metric import Judged
from peftkit.evaluate.metrics import find_metrics
from peftkit_recipes.extraction import exact, fits, recipe
from peftkit_recipes.log_lines import FIELDS, LAYOUTS, LEVELS, rows

PARIS = '{"city":"Paris","zip":75001,"street":null,"floor":2.5}'


def test_the_lines_are_the_same_each_time() -> None:
    made = list(rows())
    assert made == list(rows())
    assert len(made) == 3_000
    assert len({row["text"] for row in made}) > 2_980
    assert made[0]["text"] == "ERROR: connection to db-1 refused [code=51]"
    assert made[0]["json"] == (
        '{"time":null,"level":"ERROR","service":null,"pid":null,"message":"connection to db-1 refused [code=51]"}'
    )


def test_each_line_tells_its_fields() -> None:
    missing = dict.fromkeys(FIELDS, 0)
    for row in rows():
        told = json.loads(row["json"])
        assert tuple(told) == FIELDS
        assert told["message"] in row["text"]
        assert told["level"] in (*LEVELS, None)
        for name in ("service", "pid"):
            assert told[name] is None or str(told[name]) in row["text"]
        if told["time"] is not None:
            time = datetime.fromisoformat(told["time"])
            assert all(
                f"{part:02}" in row["text"] for part in (time.year, time.month, time.day, time.hour, time.second)
            )
        for name in FIELDS:
            missing[name] += told[name] is None
    assert missing["message"] == 0
    assert all(300 < missing[name] < 2_000 for name in FIELDS if name != "message")
    assert len(LAYOUTS) == 7


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (PARIS, 1.0),
        ('{ "floor": 2.5, "street": null, "zip": 75001, "city": "Paris" }', 1.0),
        ('{"city":"Rome","zip":1,"street":"Via Appia","floor":3}', 1.0),
        ('{"city":null,"zip":null,"street":null,"floor":null}', 1.0),
        ('{"city":"Paris","zip":"75001","street":null,"floor":2.5}', 0.0),
        ('{"city":"Paris","zip":true,"street":null,"floor":2.5}', 0.0),
        ('{"city":"Paris","zip":75001,"street":null}', 0.0),
        ('{"city":"Paris","zip":75001,"street":null,"floor":2.5,"door":1}', 0.0),
        ('{"city":"Paris","zip":NaN,"street":null,"floor":2.5}', 0.0),
        (f"```json\n{PARIS}\n```", 0.0),
        (f"[{PARIS}]", 0.0),
        (PARIS[:-1], 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_json_fits_the_schema(answer: str, share: float) -> None:
    assert fits(PARIS, answer, {}) == share


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ('{"zip":75001,"city":"Paris","floor":2.5,"street":null}', 1.0),
        ('{"zip":75001,"city":"Paris","floor":2.5}', 1.0),
        ('{"zip":75001,"city":"paris","floor":2.5,"street":null}', 0.0),
        ('{"zip":75001,"city":"Paris","floor":2.5,"street":"Rue"}', 0.0),
        ("not JSON", 0.0),
    ],
)
def test_all_fields_are_right(answer: str, share: float) -> None:
    assert exact(PARIS, answer, {}) == share


def test_fields_count_over_all_rows() -> None:
    expected = [PARIS, '{"city":"Rome","zip":null}', '{"tags":["a","b"],"in":{"x":1,"y":2}}']
    before = ["Paris", "{}", ""]
    # right 2 of 3 answered and 3 expected; 1 of 2 and 1; 1 of 2 and 2: F1 = 2 * 4 / (7 + 6)
    after = [
        '{"city":"Paris","zip":75001,"floor":2}',
        '{"city":"Rome","zip":1}',
        '{"tags":["b","a"],"in":{"y":2,"x":1}}',
    ]
    sides = [Judged(expected, [Answer(text) for text in answers]) for answers in (before, after)]
    found = compare(*sides, find_metrics(recipe.metrics), samples=50)
    assert list(found["metrics"]) == ["field_f1", "all_fields", "valid_json"]
    assert found["before"]["field_f1"]["value"] == 0.0
    assert found["after"]["field_f1"]["value"] == pytest.approx(8 / 13)
    assert found["after"]["all_fields"]["value"] == 0.0
    assert found["after"]["valid_json"]["value"] == pytest.approx(2 / 3)
