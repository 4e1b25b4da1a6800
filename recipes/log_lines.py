"""Log lines in seven layouts with the facts that each tells: generated, the same ones each time.

A layout that does not tell a field has null for it. Times are given as ISO 8601, and levels by their full names,
however the line writes them.
"""

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta

FIELDS = ("time", "level", "service", "pid", "message")
LAYOUTS = (
    "{time:%Y-%m-%d %H:%M:%S} {level:<8} [{service}] {message}",
    "{time:%Y-%m-%dT%H:%M:%SZ} {service}[{pid}]: {level:.1} {message}",
    'ts={time:%Y-%m-%dT%H:%M:%SZ} level={level} app={service} pid={pid} msg="{message}"',
    "[{time:%d/%m/%Y:%H:%M:%S}] [{service}:{level}] [pid {pid}] {message}",
    "{time:%d.%m.%Y %H:%M:%S} {service} - {message}",
    "{service}[{pid}] <{level:.1}> {message}",
    "{level}: {message}",
)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SERVICES = (
    "billing",
    "search",
    "mail-out",
    "gateway",
    "auth",
    "cache-2",
    "orders",
    "worker.images",
    "sync",
    "scheduler",
)
MESSAGES = (
    "timeout after {n} ms calling {host}",
    "user {name} signed in from 10.0.{n}.7",
    "disk /var/{name} is {n}% full",
    "retry {n} for order {key}",
    "cannot open C:\\spool\\{key}.tmp",
    "{name}.json: unexpected ',' in line {n}",
    "connection to {host} refused [code={n}]",
    "job {key} finished: {n} rows, 0 errors",
    "certificate of {host} ends in {n} days",
    "queue '{name}' holds {n} messages - slowing down",
)
HOSTS = ("db-1", "db-2.internal", "api.example.org", "127.0.0.1:8080", "mx3.example.net")
NAMES = ("mia", "jonas", "reports", "invoices", "o.keeffe", "tmp", "guest", "backup-eu")


def rows() -> Iterator[dict[str, str]]:
    """Generate log lines with their fields, the same ones each time."""
    draw = random.Random(0)  # noqa: S311 - sample rows, nothing secret
    for _ in range(3000):
        key, n = f"{draw.getrandbits(24):06x}", draw.randrange(2, 100)
        message = draw.choice(MESSAGES).format(n=n, key=key, host=draw.choice(HOSTS), name=draw.choice(NAMES))
        time = datetime(2026, 1, 1) + timedelta(seconds=draw.randrange(365 * 24 * 3600))
        facts = {"time": time, "level": draw.choice(LEVELS), "service": draw.choice(SERVICES)}
        facts |= {"pid": draw.randrange(100, 32768), "message": message}
        layout = draw.choice(LAYOUTS)
        told = {name: facts[name] if f"{{{name}" in layout else None for name in FIELDS}
        yield {
            "text": layout.format(**facts),
            "json": json.dumps(told, default=datetime.isoformat, separators=(",", ":")),
        }
