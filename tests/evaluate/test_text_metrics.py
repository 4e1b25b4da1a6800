"""ROUGE, BLEU and chrF against direct calls of rouge-score and sacrebleu; the others by hand."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from peftkit.evaluate.answers import Answer
from peftkit.evaluate.compare import compare
from peftkit.evaluate.metric import Judged
from peftkit.evaluate.metrics import METRICS
from peftkit.evaluate.text_metrics import tokenizer_of

ENGLISH = [
    "the river rises early in the year",
    "nobody has read the second letter, it seems",
    "a violin and a cellar: both are old",
    "she said &quot;no&quot; to the well-known harbour",
    "short",
]
CHINESE = [
    "请输入一个有效的 %(protocol)s 地址。",
    "文档",
    "您选择的文件是空的。",
    "域名不能包含任何空格或制表符。",
    "否",
]


def answers_to(references: list[str], seed: int) -> list[str]:
    """Change the references: characters left out, two halves exchanged, or none of it."""
    draw = random.Random(seed)
    kept = ["".join(char for char in text if draw.random() > 0.1) for text in references]
    return [text[len(text) // 2 :] + text[: len(text) // 2] if draw.random() < 0.3 else text for text in kept]


def judged(references: list[str], answers: list[str], columns: list[dict] | None = None) -> Judged:
    return Judged(references, [Answer(text) for text in answers], columns or [])


def value(key: str, references: list[str], answers: list[str], columns: list[dict] | None = None) -> float:
    metric = METRICS[key]
    return metric.combine(metric.statistics(judged(references, answers, columns)).sum(axis=0))


def same_tokenizer(references: list[str]) -> BLEU:
    return BLEU(tokenize="zh" if references is CHINESE else "13a")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_mean_of_rouge_score(kind: str, seed: int) -> None:
    answers = answers_to(ENGLISH, seed)
    scorer = RougeScorer([kind], use_stemmer=True)
    theirs = [scorer.score(one, other)[kind].fmeasure for one, other in zip(ENGLISH, answers, strict=True)]
    assert value(kind, ENGLISH, answers) == pytest.approx(np.mean(theirs), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("references", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_bleu_and_chrf_are_those_of_sacrebleu(references: list[str], seed: int) -> None:
    answers = answers_to(references, seed)
    theirs = same_tokenizer(references).corpus_score(answers, [references]).score
    assert value("bleu", references, answers) == pytest.approx(theirs / 100, abs=1e-12)
    theirs = CHRF().corpus_score(answers, [references]).score
    assert value("chrf", references, answers) == pytest.approx(theirs / 100, abs=1e-12)


@pytest.mark.parametrize("references", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_rows_drawn_again_give_the_score_of_that_corpus(references: list[str]) -> None:
    answers = answers_to(references, 7)
    drawn = [0, 0, 3, 2, 0, 4, 2]
    counts = np.bincount(drawn, minlength=len(references)).astype(float)
    again = [answers[place] for place in drawn], [[references[place] for place in drawn]]
    for key, theirs in (("bleu", same_tokenizer(references)), ("chrf", CHRF())):
        totals = counts @ METRICS[key].statistics(judged(references, answers))
        assert METRICS[key].combine(totals) == pytest.approx(theirs.corpus_score(*again).score / 100, abs=1e-12)


@pytest.mark.parametrize("references", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_the_signatures_are_those_of_sacrebleu(references: list[str]) -> None:
    for key, theirs in (("bleu", same_tokenizer(references)), ("chrf", CHRF())):
        theirs.corpus_score(references, [references])
        described = METRICS[key].described(judged(references, references))
        assert described["detail"] == f"sacrebleu {theirs.get_signature()}"


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (ENGLISH, "13a"),
        (["Bitte geben Sie eine gültige Adresse ein.", "Größe"], "13a"),
        (["유효한 주소를 입력하십시오."], "13a"),
        (["Введите правильный адрес."], "13a"),
        (CHINESE, "zh"),
        (["%(model_name)s 的 %(field_label)s 已经存在。"], "zh"),
        (["有効なアドレスを入力してください。"], "char"),
        (["ファイルを選択"], "char"),
        (["กรุณาใส่ที่อยู่ที่ถูกต้อง"], "char"),
        (["Read 红楼梦, a novel in a hundred and twenty chapters"], "13a"),
        (["100 %", ""], "13a"),
        ([], "13a"),
    ],
)
def test_the_tokenizer_goes_by_the_script(references: list[str], tokenizer: str) -> None:
    assert tokenizer_of(references) == tokenizer


@pytest.mark.parametrize("key", ["rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match"])
def test_the_reference_itself_is_perfect_and_nothing_is_worth_nothing(key: str) -> None:
    long = ENGLISH[:4]
    assert value(key, long, long) == pytest.approx(1.0)
    assert value(key, long, [""] * 4) == 0.0


def test_exact_match_forgives_case_and_blanks() -> None:
    assert value("exact_match", ["A  b", "c", "d"], ["a b\n", "C", "e"]) == pytest.approx(2 / 3)


def test_lengths_are_compared() -> None:
    assert value("length_ratio", ["abcd", "ab", ""], ["ab", "abc", "x"]) == pytest.approx((0.5 + 1.5) / 2)


def test_copied_runs_are_counted() -> None:
    columns = [{"text": "one two three four five six", "title": "one two three four seven"}] * 3
    answers = ["One two, three four seven.", "six five four three two", "too short to count"[:9]]
    # Runs of the first: `one two three four` stands in the text, `two three four seven` does not.
    assert value("copy_rate", [columns[0]["title"]] * 3, answers, columns) == pytest.approx((0.5 + 0.0) / 2)


def test_a_difference_is_between_the_two_scores() -> None:
    before, after = answers_to(ENGLISH, 1), ENGLISH
    found = compare(judged(ENGLISH, before), judged(ENGLISH, after), [METRICS["bleu"], METRICS["chrf"]], samples=100)
    for key in ("bleu", "chrf"):
        assert found["after"][key]["value"] == pytest.approx(1.0)
        assert found["difference"][key]["value"] == pytest.approx(1 - value(key, ENGLISH, before))
        assert found["difference"][key]["low"] > 0
