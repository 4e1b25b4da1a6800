"""Messages in two languages, and placeholders that must survive."""

import re

import pytest

from peftkit.evaluate.answers import Answer
from peftkit.evaluate.compare import compare
from peftkit.evaluate.metric import Judged
from peftkit.evaluate.metrics import find_metrics
from peftkit_recipes.translation import kept_placeholders, recipe

from .embedded import rows_of


def test_each_message_stands_once_with_its_translation() -> None:
    rows, used = rows_of("translation")
    assert (len(rows), len(used)) == (921, 790)
    assert len({row["source"] for row in used}) == len(used)
    assert all(row["source"] != row["target"] and row["target"].strip() for row in used)
    chinese = sum(bool(re.search("[\u4e00-\u9fff]", row["target"])) for row in used)
    assert chinese > 0.99 * len(used)
    target = {row["source"]: row["target"] for row in used}
    assert target["Django Documentation"] == "Django 文档"
    # Chinese has one form for every number; it goes with the English plural.
    assert target["%(num)d years"] == "%(num)d 年"
    assert "%(num)d year" not in target
    assert "{}th" not in target, "its translation depends on a context that a row does not hold"


def test_the_translations_keep_their_own_placeholders() -> None:
    shares = [kept_placeholders(row["source"], row["target"], row) for row in rows_of("translation")[1]]
    judged = [share for share in shares if share is not None]
    assert len(judged) > 150
    assert sum(judged) / len(judged) > 0.98


@pytest.mark.parametrize(
    ("expected", "answer", "share"),
    [
        ("删除 %(count)d 个 %(items)s", "删除 %(items)s", 0.5),
        ("删除 %(count)d 个 %(items)s", "%(items)s%(count)d个", 1.0),
        ("%s和%s", "%s", 0.0),
        ("%s和%s", "%s和%s和%s", 0.0),
        ("%(name)s的", "%(nama)s的", 0.0),
        ("{name} “{obj}”", "{name} {obj} {more}", 1.0),
        ('<a href="%(link)s">docutils</a>', '<a href="%(link)s">docutils', 0.5),
        ("<strong>%(username)s</strong>", "%(username)s", 1 / 3),
        ("100% 完成", "完成", None),
        ("a < b 且 b > c", "", None),
    ],
)
def test_placeholders_are_counted(expected: str, answer: str, share: float | None) -> None:
    assert kept_placeholders(expected, answer, {}) == (share if share is None else pytest.approx(share))


def test_rows_without_placeholders_do_not_count() -> None:
    before = Judged(["%s的", "文档"], [Answer("的"), Answer("文档")])
    after = Judged(["%s的", "文档"], [Answer("%s 的"), Answer("文件")])
    found = compare(before, after, find_metrics(recipe.metrics), samples=50)
    assert list(found["metrics"]) == ["chrf", "placeholders", "bleu"]
    assert found["before"]["placeholders"]["value"] == 0.0
    assert found["after"]["placeholders"]["value"] == 1.0
