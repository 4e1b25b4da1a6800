"""Values of typed tables as JSON knows them, so that rows from every source look the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any


def plain(value: Any) -> Any:
    """Return a value of Arrow, a database or the hub as text, number, true or false, None, list or dictionary.

    Dates and times become ISO 8601, decimals keep their digits as text, and a float that is not finite is missing, as
    pandas writes it. Bytes stay bytes: no recipe takes them, and a table may hold pictures that nobody asks for.
    """
    if value is None or isinstance(value, str | bool | int | bytes):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(member) for member in value]
    return str(value)
