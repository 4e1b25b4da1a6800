"""What a metric is: sums over rows, and what is made of the sums.

Every metric here is a function of sums of per-row statistics: a mean, a ratio of two sums, corpus BLEU from its n-gram
counts, a correlation from its moments. So each row is scored once, and a bootstrap only adds rows up again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peftkit.evaluate.answers import Answer

    Table = NDArray[np.float64]

Better = Literal["higher", "lower", "neither"]
PerRow = Callable[[str, str, Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Judged:
    """What one model answered to the held-out rows, beside what was expected.

    Attributes:
        expected: Each row's completion, label, labels (joined) or score, as text.
        answers: The model's answers, in the same order.
        columns: Each row's columns, by the recipe's names.
        labels: The allowed labels, if any.
        separator: What joins several labels of a row; None where a row has exactly one.
    """

    expected: Sequence[str]
    answers: Sequence[Answer]
    columns: Sequence[Mapping[str, Any]] = field(default=())
    labels: tuple[str, ...] = ()
    separator: str | None = None

    def __len__(self) -> int:
        return len(self.expected)

    def rows(self, places: Sequence[int]) -> Judged:
        """Return the rows at these places alone."""

        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[place] for place in places] if values else []

        return Judged(pick(self.expected), pick(self.answers), pick(self.columns), self.labels, self.separator)


@dataclass(frozen=True)
class Metric:
    """A figure that judges answers.

    Attributes:
        key: Its name in files, such as `macro_f1`.
        name: Its name for people.
        statistics: Gives each row's statistics, float64 [rows, k].
        combine: Makes the figure of the statistics' sums over rows, float64 [k]; not a number where it is undefined.
        percent: Whether it is a share, shown in percent.
        better: Which way is an improvement.
        exact_share: Whether it is a share of rows, which gets Wilson's interval in place of the bootstrap's.
        kinds: The values of `task.kind` that it can judge; empty for all.
        detail: What has to be said beside the figure, such as the signature of sacrebleu; a function where it depends
            on the rows.
    """

    key: str
    name: str
    statistics: Callable[[Judged], Table]
    combine: Callable[[Table], float]
    percent: bool = True
    better: Better = "higher"
    exact_share: bool = False
    kinds: tuple[str, ...] = ()
    detail: str | Callable[[Judged], str] = ""

    @classmethod
    def mean(
        cls,
        key: str,
        name: str,
        per_row: PerRow,
        *,
        percent: bool = True,
        better: Better = "higher",
        kinds: tuple[str, ...] = (),
    ) -> Metric:
        """Make a metric of a function of one row: the mean over the rows that it applies to.

        Args:
            key: Its name in files.
            name: Its name for people.
            per_row: Takes what was expected, what was answered, and the row's columns; None leaves the row out.
            percent: Whether it is a share, shown in percent.
            better: Which way is an improvement.
            kinds: The values of `task.kind` that it can judge; empty for all.
        """

        def statistics(judged: Judged) -> Table:
            columns = judged.columns or [{}] * len(judged)
            values = [
                per_row(expected, answer.text, row)
                for expected, answer, row in zip(judged.expected, judged.answers, columns, strict=True)
            ]
            return ratio([(0.0, 0.0) if value is None else (float(value), 1.0) for value in values])

        return cls(key, name, statistics, quotient, percent=percent, better=better, kinds=kinds)

    def described(self, judged: Judged) -> dict[str, Any]:
        """Return what a file must say of it so that others can show it."""
        detail = self.detail if isinstance(self.detail, str) else self.detail(judged)
        described: dict[str, Any] = {"name": self.name, "percent": self.percent, "better": self.better}
        return {**described, "detail": detail} if detail else described


def ratio(pairs: Sequence[tuple[float, float]]) -> Table:
    """Return numerators and denominators as statistics, [rows, 2]."""
    import numpy as np

    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def quotient(totals: Table) -> float:
    """Divide the first sum by the second; not a number where that is zero."""
    return float(totals[0] / totals[1]) if totals[1] else float("nan")
