"""The rows of Parquet and of Arrow's own files (`.arrow`, `.feather`), a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.data.rows import BadRow, Input, Row, shown
from peftkit.data.values import plain
from peftkit.errors import first_line

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 1024


def read_parquet(source: Input, path: Path) -> Iterator[Row | BadRow]:
    """Read a Parquet file; memory is bounded by `_BATCH_ROWS` rows and one page of each column."""
    return _rows(source, path, _parquet_batches, "Parquet")


def read_arrow(source: Input, path: Path) -> Iterator[Row | BadRow]:
    """Read an Arrow file, also Feather version 2, or an Arrow stream, which is what `datasets` writes as .arrow."""
    return _rows(source, path, _arrow_batches, "Arrow")


def _rows(
    source: Input, path: Path, read: Callable[[Path], Iterator[pyarrow.RecordBatch]], kind: str
) -> Iterator[Row | BadRow]:
    import pyarrow

    index = 0
    try:
        for batch in read(path):
            if not index:
                _check_names(source, batch.schema.names)
            for start in range(0, len(batch), _BATCH_ROWS):
                for row in _batch_rows(source, batch.slice(start, _BATCH_ROWS), index):
                    yield row
                    index += 1
    except (pyarrow.ArrowException, OSError) as error:
        source.refuse(f"is damaged or no {kind} file ({first_line(error)})", "copy or write it again")
    if not index:
        source.refuse("holds no rows", "write a table with at least one row")


def _parquet_batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    from pyarrow import parquet

    # Without a buffer size, whole column chunks are read: a file may be one row group.
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(_BATCH_ROWS)


def _arrow_batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    with pyarrow.OSFile(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            with pyarrow.ipc.open_file(file) as reader:
                yield from (reader.get_batch(place) for place in range(reader.num_record_batches))
        else:
            with pyarrow.ipc.open_stream(file) as stream:
                yield from stream


def _check_names(source: Input, names: list[str]) -> None:
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        source.refuse(f"has {count} columns named {shown(name)}", "rename them")


def _batch_rows(source: Input, batch: pyarrow.RecordBatch, first: int) -> Iterator[Row | BadRow]:
    try:
        found = batch.to_pylist()
    except (ValueError, OverflowError):  # one value that Python cannot hold; the others are good
        for place in range(len(batch)):
            yield _single_row(f"{source.name}[{first + place}]", batch.slice(place, 1))
        return
    for place, values in enumerate(found):
        yield Row(f"{source.name}[{first + place}]", plain(values))


def _single_row(where: str, batch: pyarrow.RecordBatch) -> Row | BadRow:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = plain(column[0].as_py())
        except (ValueError, OverflowError) as error:
            return BadRow(where, name, f"cannot be read: {first_line(error)}")
    return Row(where, values)
