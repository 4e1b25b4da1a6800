"""Rows for a model with a head: the tokenizer's own frame around the text, what is cut, and what is learned."""

import pytest

from peftkit.config import RunConfig, TaskConfig
from peftkit.data.encode_head import HeadEncoder
from peftkit.data.framed import FramedTexts, frame
from peftkit.data.rows import Row
from peftkit.data.score_scale import from_standard, to_standard, with_score_scale
from peftkit.errors import ConfigError
from peftkit.model.load import Source, load_tokenizer

from ..models import ENCODERS, tiny

LABELS = ("bad", "so-so", "good")


def tokenizer_of(name):
    return load_tokenizer(Source(str(tiny(name))))


def encoder_of(name, *, max_length=64, **task):
    return HeadEncoder(
        tokenizer_of(name), TaskConfig(**{"kind": "classification", "labels": LABELS, **task}), max_length=max_length
    )


def rows(*values):
    return [Row(f"rows:{number}", dict(one)) for number, one in enumerate(values, 1)]


@pytest.mark.parametrize("name", [*ENCODERS, "llama", "t5"])
def test_a_text_stands_as_the_tokenizer_itself_would_write_it(name):
    encoder = encoder_of(name)
    text = "it was a lovely film, no. 7"
    [[example]] = encoder.encode_rows(rows({"text": text, "label": "good"}))
    assert example.prompt_ids == tokenizer_of(name)(text)["input_ids"]
    assert example.prompt_ids == encoder.prompt_ids({"text": text}, room=9)
    assert (example.completion_ids, example.truncated, example.trained_tokens) == ([], False, 0)
    assert (example.where, example.expected, example.target) == ("rows:1", "good", 2)
    assert (encoder.template, encoder.end_ids, encoder.label_ids()) == ("plain", frozenset(), {})


@pytest.mark.parametrize("name", [*ENCODERS, "llama"])
def test_a_long_text_is_cut_within_its_frame_and_says_so(name):
    encoder = encoder_of(name, max_length=12)
    short, long = "it was", "it was a good film and a lovely book by a fine a bad a dull a poor"
    [[first], [second]] = encoder.encode_rows(rows({"text": short, "label": "bad"}, {"text": long, "label": "bad"}))
    whole = tokenizer_of(name)(long)["input_ids"]
    before, after = frame(tokenizer_of(name))
    assert (first.truncated, second.truncated) == (False, True)
    assert second.prompt_ids == whole[: 12 - len(after)] + after
    assert second.prompt_ids[: len(before)] == before


def test_the_models_own_limit_holds_too():
    encoder = encoder_of("bert", max_length=4096)
    [[example]] = encoder.encode_rows(rows({"text": "film " * 500, "label": "bad"}))
    assert (len(example.prompt_ids), example.truncated) == (128, True)


@pytest.mark.parametrize("name", [*ENCODERS, "t5"])
def test_rows_cannot_write_control_tokens(name):
    tokenizer = tokenizer_of(name)
    controls = [token for token in tokenizer.all_special_tokens if token != tokenizer.unk_token]
    encoder = encoder_of(name)
    ids = encoder.prompt_ids({"text": f"it {' was '.join(controls)} bad"})
    before, after = frame(tokenizer)
    inner = ids[len(before) : len(ids) - len(after)]
    assert len(inner) > len(controls)
    assert not set(inner) & set(tokenizer.convert_tokens_to_ids(controls))


def test_a_template_can_write_them_and_the_longest_piece_is_cut():
    tokenizer = tokenizer_of("bert")
    texts = FramedTexts(tokenizer, "{first} [SEP] it was {second}", max_length=10)
    assert tokenizer.decode(texts.encode([{"first": "a film", "second": "bad"}])[0][0]) == (
        "[CLS] a film [SEP] it was bad [SEP]"
    )
    ids, cut = texts.encode([{"first": "a film by a good book by a film", "second": "bad"}])[0]
    assert (tokenizer.decode(ids), cut) == ("[CLS] a film by a [SEP] it was bad [SEP]", True)


def test_the_frame_of_a_tokenizer_that_writes_none_is_empty():
    assert frame(tokenizer_of("llama")) == ([], [])
    assert frame(tokenizer_of("bert")) == ([2], [3])


def test_no_room_for_text_is_an_error_of_the_settings():
    with pytest.raises(ConfigError, match=r"train\.max_length=2 leaves no room .* between the 2 special tokens"):
        encoder_of("bert", max_length=2)


def test_many_rows_come_back_in_their_order():
    texts = [f"it was no. {number}" for number in range(5000)]
    examples = encoder_of("bert").encode_rows(rows(*({"text": text, "label": "bad"} for text in texts)))
    assert [one.columns["text"] for [one] in examples] == texts
    assert examples[4321][0].prompt_ids == tokenizer_of("bert")(texts[4321])["input_ids"]


@pytest.mark.parametrize(
    ("given", "target"), [("bad, good", (1.0, 0.0, 1.0)), ("so-so", (0.0, 1.0, 0.0)), ("", (0.0, 0.0, 0.0))]
)
def test_several_labels_become_a_0_or_1_for_each(given, target):
    [[example]] = encoder_of("bert", multi_label=True).encode_rows(rows({"text": "film", "label": given}))
    assert (example.target, example.expected) == (target, given)


def test_a_score_is_learned_in_standard_units():
    encoder = encoder_of("bert", kind="regression", labels=None, score_mean=50, score_std=20)
    [[example]] = encoder.encode_rows(rows({"text": "film", "score": "80"}))
    assert (example.target, example.expected) == (1.5, "80")
    assert encoder_of("bert", kind="regression", labels=None).target("80") == 80.0


def test_the_scale_of_scores_is_that_of_the_rows_unless_it_is_given():
    found = rows(*({"score": text} for text in ("10", "20", "30", "40")))
    config = RunConfig(recipe="rating", task={"kind": "regression"})
    task = with_score_scale(config, found).task
    assert (task.score_mean, task.score_std) == (25, pytest.approx(125**0.5))
    assert from_standard(to_standard(33.5, task), task) == pytest.approx(33.5)
    given = RunConfig(recipe="rating", task={"kind": "regression", "score_mean": 0, "score_std": 2})
    assert with_score_scale(given, found) == given
    assert with_score_scale(config, found[:1]).task.score_std == 1.0  # scores that are all alike have no spread
    other = RunConfig(recipe="rating", task={"kind": "classification"})
    assert with_score_scale(other, found) == other
