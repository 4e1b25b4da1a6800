import contextlib
import sqlite3
import sys

import pytest

from peftkit.data import sql_rows
from peftkit.data.rows import Row
from peftkit.data.sources import describe_source, read_rows, redact_source
from peftkit.errors import DataError, MissingDependencyError

pytest.importorskip("sqlalchemy")


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "my reviews?.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table reviews (text, label, score)")
        connection.executemany("insert into reviews values (?, ?, ?)", [("a;b", 1, 0.5), ("ü", 0, None), ("c", 1, 2)])
        connection.commit()
    return path


def word(database, query):
    return f"sql:sqlite:///{str(database).replace('?', '%3F')}#{query}"


def refusal(source):
    with pytest.raises(DataError) as caught:
        list(read_rows(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_query_gives_rows(tmp_path, database):
    renamed = database.rename(tmp_path / "reviews.db")
    assert list(read_rows(word(renamed, "select text, label as y, score from reviews order by rowid;"))) == [
        Row("reviews.db[0]", {"text": "a;b", "y": 1, "score": 0.5}),
        Row("reviews.db[1]", {"text": "ü", "y": 0, "score": None}),
        Row("reviews.db[2]", {"text": "c", "y": 1, "score": 2}),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT*FROM reviews WHERE text LIKE '%;%'", ["a;b"]),
        ("with r as (select * from reviews) select text from r where label = 0 -- delete", ["ü"]),
        ("/* drop */ select 'insert :x %s' as text", ["insert :x %s"]),
        ("values ('#1')", ["#1"]),
        ("(select 1)", None),
        ('select text as "update" from reviews where label = 0', ["ü"]),
    ],
)
def test_queries_that_read_are_run_as_they_are(tmp_path, database, query, expected):
    renamed = database.rename(tmp_path / "reviews.db")
    if expected is None:
        assert "syntax error" in refusal(word(renamed, query))  # SQLite's own opinion, not ours
        return
    assert [next(iter(row.values.values())) for row in read_rows(word(renamed, query))] == expected


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "there is no query; "),
        ("-- select", "there is no query; "),
        ("delete from reviews", "'delete' is not the beginning of a query that reads; "),
        ("pragma user_version", "'pragma' is not the beginning of a query that reads; "),
        ("select 1; drop table reviews", "there is more than one statement; "),
        ("with x as (delete from reviews returning *) select * from x", "'delete' would write; "),
        ("select * INTO other from reviews", "'INTO' would write; "),
    ],
)
def test_queries_that_write_are_refused_at_once(database, query, reason):
    with pytest.raises(DataError) as caught:
        read_rows(word(database, query))
    assert f"?: {reason}" in str(caught.value).replace("%3F.db", "?").replace("?.db", "?")


def test_a_database_is_opened_read_only(tmp_path, database, monkeypatch):
    renamed = database.rename(tmp_path / "100% reviews.db")
    monkeypatch.setattr(sql_rows, "_check_reads", lambda query: None)
    assert "attempt to write a readonly database" in refusal(word(renamed, "delete from reviews"))
    monkeypatch.undo()
    assert len(list(read_rows(word(renamed, "select * from reviews")))) == 3


def test_a_database_that_is_not_there_is_not_made(tmp_path, database):
    message = refusal(word(tmp_path / "my reviews.db", "select 1"))
    assert message == f"{tmp_path}/my reviews.db is not there; did you mean 'my reviews?.db'?"
    assert not (tmp_path / "my reviews.db").exists()


def test_failures_are_said_in_one_line(tmp_path):
    path = tmp_path / "r.db"
    path.write_bytes(b"x" * 5000)
    assert "the query failed (file is not a database)" in refusal(word(path, "select * from t"))
    path.write_bytes(b"")
    assert "the query failed (no such table: t)" in refusal(word(path, "select * from t"))
    assert "the query gives no rows" in refusal(word(path, "select 1 where 0"))
    assert "the query gives 2 columns named 'x'; rename them" in refusal(word(path, "select 1 as x, 2 as x"))
    assert "in memory" in refusal("sql:sqlite://#select 1")


def test_the_url_can_come_from_the_environment(tmp_path, database, monkeypatch):
    monkeypatch.setenv("REVIEWS", f"sqlite:///{database.rename(tmp_path / 'r.db')}")
    assert len(list(read_rows("sql:$REVIEWS#select * from reviews"))) == 3
    assert redact_source("sql:$REVIEWS#select 1") == "sql:$REVIEWS#select 1"
    with pytest.raises(DataError, match=r"^sql:\$GONE: there is no environment variable GONE"):
        read_rows("sql:$GONE#select 1")


SECRET = "sql:postgresql+nodriver://me:hunter2@db.example/reviews?sslpassword=hunter3&a=b#select text from t"


def test_passwords_are_never_shown(monkeypatch):
    described = describe_source(SECRET)
    assert described["name"] == "reviews"
    assert described["query"] == "select text from t"
    assert described["url"] == "postgresql+nodriver://me:***@db.example/reviews?a=b&sslpassword=%2A%2A%2A"
    assert redact_source(SECRET) == f"sql:{described['url']}#select text from t"
    for wrong in (SECRET, SECRET.replace("select", "drop"), SECRET.replace("postgresql+nodriver://", "://")):
        message = refusal(wrong)
        assert "hunter" not in message


def test_a_driver_that_repeats_the_password_is_not_repeated(tmp_path, monkeypatch):
    import sqlalchemy

    def failing(*_, **__):
        raise sqlalchemy.exc.ArgumentError("cannot reach me:hunter2@db with hunter3")

    monkeypatch.setattr(sqlalchemy, "create_engine", failing)
    with pytest.raises(DataError, match=r"cannot reach me:\*\*\*@db with \*\*\*"):
        read_rows(SECRET)


def test_a_missing_library_is_named(monkeypatch, database):
    with pytest.raises(
        MissingDependencyError, match=r"the driver 'MySQLdb' is not installed; run `pip install MySQLdb`"
    ):
        read_rows("sql:mysql://me:hunter2@host/db#select 1")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingDependencyError, match=r"^sql: needs SQLAlchemy, .* run `pip install 'peftkit\[sql\]'`$"):
        read_rows(word(database, "select 1"))


def test_rows_come_as_they_are_fetched(tmp_path):
    path = tmp_path / "r.db"
    path.write_bytes(b"")
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select x from n"
    rows = read_rows(word(path, endless))
    assert [next(rows).values["x"] for _ in range(2500)][-1] == 2500
    rows.close()


def test_rows_are_not_held_and_percent_signs_not_read_as_parameters(tmp_path, database, monkeypatch):
    # SQLite does both by itself; the options are for the drivers of other databases.
    import sqlalchemy

    options = {}
    execute = sqlalchemy.Connection.exec_driver_sql

    def watch(connection, statement):
        options.update(connection.get_execution_options())
        return execute(connection, statement)

    monkeypatch.setattr(sqlalchemy.Connection, "exec_driver_sql", watch)
    assert len(list(read_rows(word(database.rename(tmp_path / "r.db"), "select * from reviews")))) == 3
    assert (options["yield_per"], options["no_parameters"]) == (1000, True)
