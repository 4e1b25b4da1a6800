"""Token ids are read back for the same rows, tokenizer and task, and for nothing else."""

import pytest

from peftkit.config import RunConfig
from peftkit.data import token_cache
from peftkit.data.examples import Example
from peftkit.data.rows import BadRow, Row
from peftkit.data.token_cache import encode_cached
from peftkit.errors import DataError

CONFIG = RunConfig(recipe="sentiment")


class Counting:
    """An encoder that counts the rows it was given."""

    template = "plain"

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.encoded = 0

    def encode_rows(self, rows):
        for row in rows:
            if "refused" in row.values["text"]:
                raise DataError(f"{row.where}: too long; shorten it")
        self.encoded += len(rows)
        return [
            [
                Example(
                    row.where, row.values, f"\u00e9{number}", [1, number], [300, 7], number % 2 == 0, trained, target
                )
                for trained, target in ((None, None), ([True, False], (0.0, 1.0)))[: 1 + number % 2]
            ]
            for number, row in enumerate(rows)
        ]


@pytest.fixture
def encoder(tiny_model, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "LEAST_ROWS", 3)
    return Counting(AutoTokenizer.from_pretrained(tiny_model))


def rows(count=5):
    return [Row(f"a.csv:{number}", {"text": f"text {number}"}) for number in range(count)]


def test_the_same_rows_are_encoded_once(encoder, tmp_path):
    seen = []
    first = encode_cached(encoder, rows(), CONFIG, lambda done, total: seen.append((done, total)))
    again = encode_cached(encoder, rows(), CONFIG, lambda done, total: seen.append((done, total)))
    assert again == first
    assert encoder.encoded == 5
    assert seen == [(5, 5), (5, 5)]
    assert len(list((tmp_path / "tokens").iterdir())) == 1


@pytest.mark.parametrize(
    "values",
    [{"train": {"max_length": 7}}, {"task": {"prompt": "{text}?"}}, {"model": {"chat_template_kwargs": {"a": 1}}}],
)
def test_what_changes_the_ids_is_encoded_again(encoder, values):
    encode_cached(encoder, rows(), CONFIG)
    encode_cached(encoder, rows(), RunConfig.model_validate({"recipe": "sentiment", **values}))
    assert encoder.encoded == 10


def test_another_row_is_encoded_again(encoder):
    encode_cached(encoder, rows(), CONFIG)
    encode_cached(encoder, [*rows(4), Row("a.csv:4", {"text": "text 4!"})], CONFIG)
    assert encoder.encoded == 10


def test_a_damaged_file_is_made_again(encoder, tmp_path):
    first = encode_cached(encoder, rows(), CONFIG)
    file = next((tmp_path / "tokens").iterdir())
    file.write_bytes(file.read_bytes()[:-3])
    assert encode_cached(encoder, rows(), CONFIG) == first
    assert encoder.encoded == 10
    assert encode_cached(encoder, rows(), CONFIG) == first
    assert encoder.encoded == 10


def test_few_rows_leave_no_file(encoder, tmp_path):
    encode_cached(encoder, rows(2), CONFIG)
    assert not (tmp_path / "tokens").exists()


def test_the_least_recently_used_files_go(encoder, tmp_path, monkeypatch):
    encode_cached(encoder, rows(5), CONFIG)
    size = next((tmp_path / "tokens").iterdir()).stat().st_size
    monkeypatch.setattr(token_cache, "MAX_BYTES", int(2.5 * size))
    for count in (6, 7, 8):
        encode_cached(encoder, rows(count), CONFIG)
    assert sum(file.stat().st_size for file in (tmp_path / "tokens").iterdir()) <= 2.5 * size
    before = encoder.encoded
    encode_cached(encoder, rows(8), CONFIG)
    assert encoder.encoded == before


SKIP = RunConfig(recipe="sentiment", data={"on_bad_row": "skip", "max_bad_fraction": 0.5})


def with_refused(*places):
    given = rows(9)
    for place in places:
        given[place] = Row(given[place].where, {"text": f"refused {place}"})
    return given


@pytest.mark.parametrize("places", [(), (0,), (3, 4), (8,), range(9)])
def test_refused_rows_are_left_out_and_the_others_encoded(encoder, places):
    given = with_refused(*places)
    found = encode_cached(encoder, given, SKIP)
    for place, (row, one) in enumerate(zip(given, found, strict=True)):
        if place in places:
            assert one == BadRow(row.where, None, "too long; shorten it")
        else:
            assert one[0].columns == row.values
    encoded = encoder.encoded
    assert encode_cached(encoder, given, SKIP) == found
    assert encoder.encoded == encoded


def test_refused_rows_of_the_cache_still_stop_a_run_that_leaves_none_out(encoder):
    given = with_refused(4)
    encode_cached(encoder, given, SKIP)
    with pytest.raises(DataError, match=r"^a\.csv:4: too long; shorten it$"):
        encode_cached(encoder, given, CONFIG)
