"""Metrics of free text against one reference: ROUGE, BLEU, chrF, exact match, length and copying.

ROUGE is rouge-score's (Lin 2004), which knows words of the letters a to z only. BLEU and chrF are sacrebleu's (Post
2018; Popovic 2015) with the signature that makes a score comparable.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from peftkit.evaluate.metric import Judged, Metric, PerRow

if TYPE_CHECKING:
    from peftkit.evaluate.metric import Table

_KINDS = ("generation", "classification")
_WORD = re.compile(r"\w+")
_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff]")  # Thai, Lao, Burmese, Khmer, kana
_SHARE = 10  # names and placeholders in Latin letters stand among them, so a tenth of the letters is enough


def _rouge(kind: str) -> PerRow:
    @functools.cache
    def scorer() -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer([kind], use_stemmer=True)

    def per_row(expected: str, answer: str, row: Mapping[str, Any]) -> float:
        return float(scorer().score(expected, answer)[kind].fmeasure)

    return per_row


def _exact(expected: str, answer: str, row: Mapping[str, Any]) -> float:
    return float(" ".join(expected.split()).casefold() == " ".join(answer.split()).casefold())


def _length_ratio(expected: str, answer: str, row: Mapping[str, Any]) -> float | None:
    return len(answer) / len(expected) if expected else None


def _copied(expected: str, answer: str, row: Mapping[str, Any]) -> float | None:
    """Share of the answer's runs of four words that stand in the row's text as they are."""
    words = _WORD.findall(answer.casefold())
    runs = [tuple(words[place : place + 4]) for place in range(len(words) - 3)]
    source = [word for value in row.values() if value != expected for word in _WORD.findall(str(value).casefold())]
    held = {tuple(source[place : place + 4]) for place in range(len(source) - 3)}
    return sum(run in held for run in runs) / len(runs) if runs else None


def tokenizer_of(references: Sequence[str]) -> str:
    """Return sacrebleu's tokenizer for the script of the references.

    It is `zh` for Chinese, `char` for other scripts without spaces between words, and `13a` for all others. What
    sacrebleu recommends for Japanese and Korean needs dictionaries that it does not bring.
    """
    letters = [letter for reference in references for letter in reference if letter.isalpha()]
    unspaced = sum(bool(_UNSPACED.match(letter)) for letter in letters)
    chinese = sum(bool(_CHINESE.match(letter)) for letter in letters)
    if _SHARE * (unspaced + chinese) <= len(letters):
        return "13a"
    return "char" if _SHARE * unspaced > len(letters) else "zh"


def _corpus(make: Callable[[Sequence[str]], Any]) -> tuple[Callable[[Judged], Table], Callable[[Table], float]]:
    """Return statistics and score of one of sacrebleu's corpus metrics, on its scale divided by 100.

    The two methods are those that sacrebleu's own paired bootstrap calls.
    """

    def statistics(judged: Judged) -> Table:
        import numpy as np

        answers = [answer.text for answer in judged.answers]
        found = make(judged.expected)._extract_corpus_statistics(answers, [list(judged.expected)])
        return np.array(found, dtype=np.float64).reshape(len(judged), -1)

    def combine(totals: Table) -> float:
        return float(make(())._compute_score_from_stats([int(total) for total in totals]).score) / 100

    return statistics, combine


@functools.cache
def _sacrebleu(name: str, **settings: Any) -> Any:
    import sacrebleu.metrics

    return getattr(sacrebleu.metrics, name)(**settings)


def _signature(settings: str) -> str:
    return f"sacrebleu {settings}|version:{version('sacrebleu')}"


def _mean(key: str, name: str, per_row: PerRow, **settings: Any) -> Metric:
    return Metric.mean(key, name, per_row, kinds=_KINDS, **settings)


TEXT_METRICS: Sequence[Metric] = (
    _mean("rouge1", "ROUGE-1", _rouge("rouge1")),
    _mean("rouge2", "ROUGE-2", _rouge("rouge2")),
    _mean("rougeL", "ROUGE-L", _rouge("rougeL")),
    Metric(
        "bleu",
        "BLEU",
        *_corpus(lambda references: _sacrebleu("BLEU", tokenize=tokenizer_of(references))),
        detail=lambda judged: _signature(f"nrefs:1|case:mixed|eff:no|tok:{tokenizer_of(judged.expected)}|smooth:exp"),
        kinds=_KINDS,
    ),
    Metric(
        "chrf",
        "chrF",
        *_corpus(lambda references: _sacrebleu("CHRF")),
        detail=_signature("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"),
        kinds=_KINDS,
    ),
    _mean("exact_match", "Exact match", _exact),
    _mean("length_ratio", "Length ratio to the reference", _length_ratio, percent=False, better="neither"),
    _mean("copy_rate", "Copied runs of four words", _copied, better="neither"),
)
