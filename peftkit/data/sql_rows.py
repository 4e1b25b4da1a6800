"""The rows that a query gives, through SQLAlchemy (`pip install 'peftkit[sql]'`).

    'sql:sqlite:///reviews.db#select text, label from reviews'
    'sql:$REVIEWS_URL#select text, label from reviews where year > 2020'

The URL is SQLAlchemy's; `$NAME` takes it from an environment variable, so that a password stands in no file and no
shell's history. Only a query that reads is run. SQLite files are opened read-only, PostgreSQL gets a read-only
transaction, and nothing is ever committed. A password appears in no message and no report.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from peftkit.data.file_rows import check_is_file
from peftkit.data.rows import BadRow, Row, printable, shown
from peftkit.data.values import plain
from peftkit.errors import DataError, MissingDependencyError, first_line

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

_FETCHED_ROWS = 1000
_SECRET = re.compile(r"pass|pwd|secret|token|key|odbc_connect", re.IGNORECASE)
# Literals, quoted names and comments, in which any word may stand.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = re.compile(
    r"\b(insert|update|delete|merge|into|drop|alter|create|truncate|grant|revoke|attach|pragma)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class _Query:
    url: URL
    text: str

    @property
    def name(self) -> str:
        """The database's name, before the number of a row."""
        return printable(Path(self.url.database or self.url.host or self.url.drivername).name)

    @property
    def shown_url(self) -> str:
        """The URL without password."""
        masked = {key: "***" for key in self.url.query if _SECRET.search(key)}
        return self.url.update_query_dict(masked).render_as_string(hide_password=True)

    def refuse(self, what: str, advice: str) -> NoReturn:
        """Raise the error that says what is wrong, without the password that a driver may repeat."""
        secrets = [self.url.password, *(value for key, value in self.url.query.items() if _SECRET.search(key))]
        for secret in secrets:
            for one in (secret,) if isinstance(secret, str) else secret or ():
                what = what.replace(str(one), "***") if one else what
        raise DataError(f"sql:{self.shown_url}: {what}; {advice}")


def read_sql(word: str) -> Iterator[Row | BadRow]:
    """Run a query and read its rows as they come.

    Args:
        word: SQLAlchemy's URL, `#`, and a query.

    Raises:
        DataError: The word, database or query is not usable, the query would write, or it gives no rows.
        MissingDependencyError: SQLAlchemy or the database's driver is not installed.
    """
    query = _parse(word)
    return _rows(query, _engine(query))


def describe_sql(word: str) -> dict[str, Any]:
    """Return the database's name, the URL without password, and the query."""
    query = _parse(word)
    return {"name": query.name, "url": query.shown_url, "query": query.text}


def redact_sql(word: str) -> str:
    """Return the word without password."""
    query = _parse(word)
    return word if word.startswith("$") else f"{query.shown_url}#{query.text}"


def _parse(word: str) -> _Query:
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise MissingDependencyError(
            "sql: needs SQLAlchemy, which is not installed; run `pip install 'peftkit[sql]'`"
        ) from error
    text, _, query = word.partition("#")
    if text.startswith("$"):
        if text[1:] not in os.environ:
            raise DataError(f"sql:{text}: there is no environment variable {text[1:]}; set it to the database's URL")
        text = os.environ[text[1:]]
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # its text, and the error's, may hold a password
        raise DataError(
            "sql: the URL cannot be read; write it as SQLAlchemy does, such as sqlite:///reviews.db or "
            "postgresql://user@host/database, with %23 for # and %40 for @ in a password"
        ) from None
    parsed = _Query(url, query.strip().rstrip(";").rstrip())
    _check_reads(parsed)
    return parsed


def _check_reads(query: _Query) -> None:
    bare = _QUOTED.sub(" ", query.text).strip().lstrip("( \n\t")
    if not bare:
        query.refuse("there is no query", "write it behind a #, such as #select text, label from reviews")
    first = re.split(r"\W", bare, maxsplit=1)[0].casefold()
    if first not in ("select", "with", "values"):
        query.refuse(f"{shown(first)} is not the beginning of a query that reads", "begin it with select or with")
    if ";" in bare:
        query.refuse("there is more than one statement", "give one query")
    if found := _WRITES.search(bare):
        query.refuse(f"{shown(found[0])} would write", "give a query that only reads, and quote a column of that name")


def _engine(query: _Query) -> Engine:
    from sqlalchemy import create_engine, pool
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # No pool: the connection is closed when the rows are read.
        return create_engine(_read_only(query), poolclass=pool.NullPool)
    except ImportError as error:
        raise MissingDependencyError(
            f"sql:{query.shown_url}: the driver {error.name!r} is not installed; run `pip install {error.name}`"
        ) from error
    except (SQLAlchemyError, TypeError, ValueError) as error:
        query.refuse(f"no such database can be opened ({first_line(error)})", "check the URL")


def _read_only(query: _Query) -> URL:
    """Let SQLite open its file read-only, which also keeps it from making a new one."""
    if query.url.get_backend_name() != "sqlite":
        return query.url
    database = query.url.database
    if not database or database == ":memory:":
        query.refuse("a database in memory holds no rows", "give the path of a file, such as sqlite:///reviews.db")
    if not database.startswith("file:"):
        check_is_file(Path(database))
        database = f"file:{quote(str(Path(database).absolute()))}"
    return query.url.set(database=database).update_query_dict({"mode": "ro", "uri": "true"})


def _rows(query: _Query, engine: Engine) -> Iterator[Row | BadRow]:
    from sqlalchemy.exc import SQLAlchemyError

    index = 0
    try:
        with engine.connect() as connection:
            if query.url.get_backend_name() == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            connection = connection.execution_options(yield_per=_FETCHED_ROWS, no_parameters=True)
            result = connection.exec_driver_sql(query.text)
            names = list(result.keys())
            twice, count = Counter(names).most_common(1)[0]
            if count > 1:
                query.refuse(f"the query gives {count} columns named {shown(twice)}", "rename them with `as`")
            for values in result:
                row = dict(zip(names, map(plain, values), strict=True))
                yield Row(f"{query.name}[{index}]", row)
                index += 1
    except SQLAlchemyError as error:
        reason = first_line(getattr(error, "orig", None) or error)
        query.refuse(f"the query failed ({reason})", "check it and the URL, and that the database can be reached")
    if not index:
        query.refuse("the query gives no rows", "check its conditions")
