"""From logits to text: the choice of a token, text that grows by tokens, and strings that stop it."""

import random

import pytest
import torch
from transformers import AutoTokenizer

from peftkit.serve.writing import GrowingText, Sampling, Stops, Writer, choose

from ..models import tiny

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def drawn(count=4000, **settings):
    sampling = Sampling(1, temperature=1.0, **settings)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.tensor([choose(LOGITS, sampling, generator) for _ in range(count)])
    return torch.bincount(chosen, minlength=4) / count


def test_temperature_1_draws_as_likely_as_the_model_finds():
    torch.testing.assert_close(drawn(), LOGITS.exp(), atol=0.03, rtol=0)


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.999, 4)])
def test_top_p_draws_from_the_smallest_set_that_has_it(top_p, kept):
    shares = drawn(top_p=top_p)
    expected = LOGITS.exp() * torch.tensor([1.0] * kept + [0.0] * (4 - kept))
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.03, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1e-40])
def test_no_temperature_and_next_to_none_take_the_likeliest(temperature):
    sampling, generator = Sampling(1, temperature=temperature), torch.Generator()
    assert {choose(LOGITS * 1e4, sampling, generator) for _ in range(20)} == {0}


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_pieces_together_are_what_all_tokens_are(name):
    """Bytes that are no text, characters of several bytes, blanks at the start, word pieces, special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny(name))
    chance = random.Random(name)
    euro = tokenizer("€ ß\U0001f600", add_special_tokens=False)["input_ids"]
    for _ in range(50):
        ids = [chance.randrange(len(tokenizer)) for _ in range(chance.randrange(1, 40))]
        place = chance.randrange(len(ids))
        ids[place:place] = euro
        text = GrowingText(tokenizer)
        pieces = [text.add(token) for token in ids]
        assert "".join([*pieces, text.rest()]) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_comes_when_it_is_whole():
    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    text = GrowingText(tokenizer)
    assert [text.add(token) for token in tokenizer("a€b", add_special_tokens=False)["input_ids"]] == [
        "a",
        "",
        "",
        "€",
        "b",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("tree", "e t"), "one two thre"[:2] + ""),
        ("one two three", ("never",), "one two three"),
        ("aaab", ("aab",), "a"),
        ("one two th", ("three",), "one two th"),
        ("", ("x",), ""),
    ],
)
def test_stops_end_a_text_however_it_is_cut(text, stops, shown, size):
    found, out, stopped = Stops(stops), "", False
    for start in range(0, len(text), size):
        piece, stopped = found.pass_on(text[start : start + size])
        out += piece
        assert not any(stop in out for stop in stops)
        if stopped:
            break
    if not stopped:
        piece, stopped = found.rest("")
        out += piece
    expected = min((text.index(stop) for stop in stops if stop in text), default=None)
    assert (out, stopped) == (text[:expected], expected is not None)
    assert out == shown


def writer(tokens, *, end_ids=frozenset({2}), **settings):
    """Let a writer choose these tokens; give it, and the pieces of text."""
    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    one = Writer(tokenizer, end_ids, Sampling(**settings))
    pieces = []
    for token in tokens:
        logits = torch.zeros(len(tokenizer))
        logits[token] = 9.0
        pieces.append(one.write(logits)[1])
        if one.finish:
            break
    return one, "".join(pieces)


def test_an_answer_ends_by_its_end_token_its_length_or_a_stop_string():
    ids = AutoTokenizer.from_pretrained(tiny("llama"))("so it is", add_special_tokens=False)["input_ids"]
    one, text = writer([*ids, 2], max_tokens=99)
    assert (one.finish, text, one.chosen, one.tokens) == ("stop", "so it is", 9, ids)
    one, text = writer([*ids, 2], max_tokens=5)
    assert (one.finish, text, one.chosen) == ("length", "so it", 5)
    one, text = writer([*ids, 2], max_tokens=99, stop=("it",))
    assert (one.finish, text, one.chosen) == ("stop", "so ", 5)
    one, text = writer([*ids, 2], max_tokens=6, stop=(" is",))  # what may be the start of it is held, then given
    assert (one.finish, text) == ("length", "so it ")
