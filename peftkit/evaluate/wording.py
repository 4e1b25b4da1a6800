"""How the report writes numbers, times and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from peftkit.evaluate.charts import Estimate, finite

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def percent(share: object, digits: int = 1) -> str:
    """Show a share from 0 to 1 in percent."""
    value = finite(share)
    return NOTHING if value is None else f"{100 * value:.{digits}f}%".replace("-", MINUS)


def number(value: object) -> str:
    """Show a number with four significant digits, and anything else as it is."""
    known = finite(value)
    return (NOTHING if value is None else str(value)) if known is None else f"{known:.4g}".replace("-", MINUS)


def count(value: object) -> str:
    """Show a whole number with its thousands apart."""
    known = finite(value)
    return NOTHING if known is None else f"{known:,.0f}"


def signed(value: float) -> str:
    """Show a number with its sign and two decimals."""
    return f"{value:+.2f}".replace("-", MINUS)


def p_value(value: object) -> str:
    """Show a p-value so that it can follow the letter p."""
    known = finite(value)
    return NOTHING if known is None else "< 0.001" if known < 0.001 else f"= {known:.3f}"


def text(value: object) -> str:
    """Show a column or an answer: a text as it is, a conversation turn by turn, anything else as JSON."""
    if isinstance(value, Sequence) and value and all(_is_message(one) for one in value):
        return "\n\n".join(f"{one['role']}: {one['content']}" for one in value)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and {"role", "content"} <= value.keys() and isinstance(value["content"], str)


def size(value: object) -> str:
    """Show bytes in the decimal unit that suits them."""
    known = finite(value)
    if known is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if known >= factor:
            return f"{known / factor:.3g} {unit}"
    return f"{known:.0f} bytes"


def duration(value: object) -> str:
    """Show seconds in the units that people use."""
    known = finite(value)
    if known is None:
        return NOTHING
    if known < 60:
        return f"{known:.1f} s"
    minutes, seconds = divmod(round(known), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def when(value: object) -> str:
    """Show a time in ISO 8601 to the minute, with its zone."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(value)


def show_estimate(estimate: Estimate | None, in_percent: bool, signed: bool = False) -> str:
    """Show a value; a signed one is a difference, in points where the metric is in percent."""
    if estimate is None:
        return NOTHING
    text = f"{100 * estimate.value:.1f}" if in_percent else f"{estimate.value:.4g}"
    sign = "+" if signed and not text.startswith("-") else ""
    return sign + text.replace("-", MINUS) + ("%" if in_percent and not signed else "")


def show_interval(estimate: Estimate | None, in_percent: bool) -> str:
    """Show the two ends of a 95% interval; nothing where it was not measured."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return " to ".join(
        show_estimate(Estimate(end), in_percent, True).lstrip("+") for end in (estimate.low, estimate.high)
    )
