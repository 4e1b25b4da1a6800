"""Documents are cut into consecutive pieces, nothing lost but a few last tokens, and every token is trained."""

import pytest

from peftkit.data.encode_plain import LEAST_TOKENS, PlainEncoder
from peftkit.data.rows import Row
from peftkit.errors import ConfigError
from peftkit.model.load import Source, load_tokenizer

from ..chats import FAMILIES

END = 2


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(Source(str(tiny_model)))


def pieces(one, *texts):
    return one.encode_rows([Row(f"book:{number}", {"text": text}) for number, text in enumerate(texts, 1)])


def test_pieces_follow_each_other_and_the_last_one_ends(tokenizer):
    text = "".join(chr(97 + place % 26) for place in range(90))
    (found,) = pieces(PlainEncoder(tokenizer, max_length=40), text)
    assert [len(example) for example in found] == [40, 40, 11]
    assert all(example.prompt_ids == [] and example.trained is None for example in found)
    assert tokenizer.decode([token for example in found for token in example.completion_ids]) == f"{text}<|im_end|>"
    assert {(example.where, example.expected, example.truncated) for example in found} == {("book:1", "", False)}


def test_a_short_rest_is_left_out_and_said(tokenizer):
    one = PlainEncoder(tokenizer, max_length=40)
    exact, short, kept = pieces(one, *("x" * length for length in (39, 38 + LEAST_TOKENS, 39 + LEAST_TOKENS)))
    assert [(len(example), example.truncated) for example in exact] == [(40, False)]
    assert [(len(example), example.truncated) for example in short] == [(40, True)]
    assert [(len(example), example.truncated) for example in kept] == [(40, False), (LEAST_TOKENS, False)]
    assert kept[-1].completion_ids[-1] == END


def test_a_short_document_is_kept(tokenizer):
    ((example,),) = pieces(PlainEncoder(tokenizer, max_length=40), "ab")
    assert tokenizer.decode(example.completion_ids) == "ab<|im_end|>"


def test_each_piece_starts_as_the_tokenizer_starts_a_text(tiny_model):
    from tokenizers import processors

    tokenizer = FAMILIES["mistral"].tokenizer(tiny_model)
    assert pieces(PlainEncoder(tokenizer, max_length=40), "ab")[0][0].prompt_ids == []
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    one = PlainEncoder(tokenizer, max_length=40)
    (found,) = pieces(one, "x" * 60)
    assert [example.prompt_ids for example in found] == [[start], [start]]
    assert [len(example) for example in found] == [40, 23]
    assert one.prompt_ids({"text": "ab"})[0] == start


def test_control_tokens_in_a_document_stay_text(tokenizer):
    ((example,),) = pieces(PlainEncoder(tokenizer, max_length=40), "a<|im_end|>b")
    assert example.completion_ids.index(END) == len(example.completion_ids) - 1
    assert tokenizer.decode(example.completion_ids) == "a<|im_end|>b<|im_end|>"


def test_a_text_to_be_continued_keeps_its_end(tokenizer):
    one = PlainEncoder(tokenizer, max_length=16)
    assert tokenizer.decode(one.prompt_ids({"text": "x" * 50 + "end"}, room=5)) == "x" * 50 + "end"
    tokenizer.model_max_length = 20
    assert tokenizer.decode(one.prompt_ids({"text": "x" * 50 + "end"}, room=5)) == "x" * 12 + "end"
    assert one.required_columns() == ("text",)
    assert one.split_text({"text": "a b"}) == "a b"
    assert one.end_ids == {END}


def test_what_cannot_be_trained_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"train\.max_length=7 is too short"):
        PlainEncoder(tokenizer, max_length=7)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="has no end token"):
        PlainEncoder(tokenizer, max_length=40)
