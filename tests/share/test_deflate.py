"""The streams are DEFLATE as zlib reads it, and the same bytes everywhere."""

import hashlib
import io
import random
import zlib

import pytest
import torch

from peftkit.share.deflate import BLOCK, code_lengths, deflate, inflate

DRAW = random.Random(0)
FIBONACCI = [1, 1]
while len(FIBONACCI) < 22:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])
CASES = {
    "nothing": b"",
    "one byte": b"a",
    "zeros": bytes(3 * BLOCK + 5),
    "noise": DRAW.randbytes(2 * BLOCK),
    "all bytes": bytes(range(256)) * 700,
    "noise, then text": DRAW.randbytes(BLOCK) + b"the same words again " * 9000 + DRAW.randbytes(70),
    "codes that would be too long": b"".join(bytes([place]) * count for place, count in enumerate(FIBONACCI)),
}


def packed(data: bytes) -> bytes:
    out = io.BytesIO()
    made = deflate(io.BytesIO(data), out.write)
    assert (made.size, made.compressed, made.crc) == (len(data), len(out.getvalue()), zlib.crc32(data))
    return out.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_zlib_reads_what_is_written(name):
    data = CASES[name]
    assert zlib.decompress(packed(data), -15) == data
    assert b"".join(inflate(iter([packed(data)]), len(data))) == data
    assert len(packed(data)) <= len(data) + 6 * (len(data) // BLOCK + 1)


def test_weights_in_bfloat16_lose_a_fifth():
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02
    data = values.view(torch.int16).numpy().tobytes()
    assert 0.7 < len(packed(data)) / len(data) < 0.8


def test_the_bytes_are_those_of_every_machine():
    """A digest that was written down: another one means that packs of before are not made again."""
    data = CASES["noise, then text"] + CASES["codes that would be too long"]
    assert (
        hashlib.sha256(packed(data)).hexdigest() == "3be4604f9a6e6b31fa19b69ff04aede448edbd1e1c2a23b03b38c3887233585e"
    )


@pytest.mark.parametrize("counts", [FIBONACCI, [1] * 256, [0, 5, 0, 3], [10**6, *([1] * 200)]])
@pytest.mark.parametrize("longest", [9, 15])
def test_codes_are_complete_and_short_enough(counts, longest):
    lengths = code_lengths(counts, longest)
    assert max(lengths) <= longest
    assert [bool(one) for one in lengths] == [bool(one) for one in counts]
    assert sum(2.0**-one for one in lengths if one) == 1  # Kraft


def test_lone_symbol():
    assert code_lengths([0, 7, 0], 15) == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "ends too early"),
        (lambda data: data + b"x", "behind its end"),
        (lambda data: b"\xff" + data[1:], "damaged"),
        (lambda data: b"", "ends too early"),
    ],
)
def test_a_damaged_stream_is_refused(change, why):
    good = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = good.compress(b"abc" * 1000) + good.flush()
    with pytest.raises(ValueError, match=why):
        list(inflate(iter([change(data)]), 3000))


def test_no_more_is_given_than_is_allowed():
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = bomb.compress(bytes(1 << 24)) + bomb.flush()
    given = []
    with pytest.raises(ValueError, match="more than it states"):
        given.extend(inflate(iter([data]), 1 << 20))
    assert sum(map(len, given)) <= 1 << 20
