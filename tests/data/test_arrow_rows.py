import datetime
import decimal
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from peftkit.data import arrow_rows
from peftkit.data.rows import BadRow, Row
from peftkit.data.sources import read_rows
from peftkit.errors import DataError

TABLE = pa.table({"text": ["a", None, "ç😀"], "label": [1, 0, 1]})
ROWS = [{"text": "a", "label": 1}, {"text": None, "label": 0}, {"text": "ç😀", "label": 1}]


def write(path, table):
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    elif path.name.startswith("stream"):
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)


NAMES = ["r.parquet", "r.feather", "r.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_reads_each_format(tmp_path, monkeypatch, name):
    monkeypatch.setattr(arrow_rows, "_BATCH_ROWS", 2)
    write(tmp_path / name, TABLE)
    rows = list(read_rows(tmp_path / name))
    assert [row.values for row in rows] == ROWS
    assert [row.where for row in rows] == [f"{name}[{index}]" for index in range(3)]


def test_typed_values_become_those_of_json(tmp_path):
    moment = datetime.datetime(2024, 5, 1, 12, 30)
    table = pa.table(
        {
            "when": [moment],
            "day": [moment.date()],
            "price": [decimal.Decimal("1.50")],
            "nan": [float("nan")],
            "turns": [[{"role": "user", "score": 0.5}]],
            "kind": pa.array(["x"]).dictionary_encode(),
            "picture": [b"\xff"],
            "flag": [True],
        }
    )
    write(tmp_path / "a.parquet", table)
    assert next(read_rows(tmp_path / "a.parquet")).values == {
        "when": "2024-05-01T12:30:00",
        "day": "2024-05-01",
        "price": "1.50",
        "nan": None,
        "turns": [{"role": "user", "score": 0.5}],
        "kind": "x",
        "picture": b"\xff",
        "flag": True,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_cannot_be_held_costs_its_row(tmp_path, name):
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())
    write(tmp_path / name, pa.table({"n": [1, 2, 3], "text": text}))
    first, bad, last = read_rows(tmp_path / name)
    assert first == Row(f"{name}[0]", {"n": 1, "text": "a"})
    assert (bad.where, bad.column) == (f"{name}[1]", "text")
    assert isinstance(bad, BadRow)
    assert "utf-8" in bad.reason
    assert last == Row(f"{name}[2]", {"n": 3, "text": "c"})


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_says_so(tmp_path, name):
    path = tmp_path / name
    write(path, pa.table({"text": [str(number) * 50 for number in range(5000)]}))
    whole = path.read_bytes()
    kind = "Parquet" if name.endswith("parquet") else "Arrow"
    for content in (b"", b"x" * 200, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"is damaged or no {kind} file") as caught:
            list(read_rows(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_without_rows_is_refused(tmp_path, name):
    write(tmp_path / name, TABLE.slice(0, 0))
    with pytest.raises(DataError, match="holds no rows"):
        list(read_rows(tmp_path / name))


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    write(tmp_path / "a.parquet", table)
    with pytest.raises(DataError, match="has 2 columns named 'a'; rename them"):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_compressed_table_is_refused_at_once(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="is a compressed table; unpack it"):
        read_rows(tmp_path / "a.parquet.gz")


@pytest.mark.parametrize("name", ["r.parquet", "r.arrow"])
def test_memory_is_that_of_a_batch(tmp_path, name):
    path = tmp_path / name
    table = pa.table({"text": [f"{number} " + "x" * 900 for number in range(20_000)]})
    if name == "r.parquet":
        parquet.write_table(table, path, row_group_size=20_000, compression="none", use_dictionary=False)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    del table
    before = pa.total_allocated_bytes()
    peak = 0
    tracemalloc.start()
    try:
        for index, row in enumerate(read_rows(path)):
            peak = max(peak, pa.total_allocated_bytes() - before) if index % 100 == 0 else peak
            assert isinstance(row, Row)
        assert index == 19_999
        assert tracemalloc.get_traced_memory()[1] + peak < 10_000_000  # of 18 MB
    finally:
        tracemalloc.stop()
