"""Rows for an encoder-decoder model: what it reads, what it writes, and what is cut."""

import pytest

from peftkit.config import TaskConfig
from peftkit.data.encode_seq2seq import Seq2SeqEncoder
from peftkit.data.rows import Row
from peftkit.errors import ConfigError
from peftkit.model.load import Source, load_tokenizer

from ..models import SEQ2SEQ, tiny


def tokenizer_of(name):
    return load_tokenizer(Source(str(tiny(name))))


def encoder_of(name, *, max_length=64, max_new_tokens=12, **task):
    return Seq2SeqEncoder(tokenizer_of(name), TaskConfig(**task), max_length=max_length, max_new_tokens=max_new_tokens)


def encode(encoder, **values):
    [[example]] = encoder.encode_rows([Row("rows:1", values)])
    return example


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_source_and_target_stand_as_the_tokenizer_itself_would_write_them(name):
    encoder = encoder_of(name, system="judge the text:", completion="it was {label}", labels=("bad", "good"))
    example = encode(encoder, text="a lovely film", label="good")
    tokenizer = tokenizer_of(name)
    assert example.prompt_ids == tokenizer("judge the text: a lovely film")["input_ids"]
    assert example.completion_ids == tokenizer(text_target="it was good")["input_ids"]
    assert example.completion_ids[-1] == tokenizer.eos_token_id
    assert (example.expected, example.truncated, example.target) == ("it was good", False, None)
    assert example.prompt_ids == encoder.prompt_ids({"text": "a lovely film"}, room=9)
    assert encoder.label_ids() == {label: tokenizer(text_target=label)["input_ids"] for label in ("bad", "good")}
    assert encoder.end_ids == {tokenizer.eos_token_id}
    assert encoder.template == "plain"


def test_the_instruction_can_name_the_labels():
    encoder = encoder_of("t5", system="choose of {labels}: ", labels=("bad", "good"))
    assert tokenizer_of("t5").decode(encoder.prompt_ids({"text": "film"})) == "choose of bad, good: film</s>"


@pytest.mark.parametrize(
    ("text", "label", "cut"), [("a " * 30, "good", True), ("a", "a " * 30, True), ("a", "b", False)]
)
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_cut_source_and_a_cut_target_are_told(name, text, label, cut):
    example = encode(encoder_of(name, max_length=16), text=text.strip(), label=label.strip())
    eos = tokenizer_of(name).eos_token_id
    assert example.truncated == cut
    for ids in (example.prompt_ids, example.completion_ids):
        assert len(ids) <= 16
        assert ids[-1] == eos
    assert (max(len(example.prompt_ids), len(example.completion_ids)) == 16) == cut


def test_bart_has_positions_to_an_end_and_t5_has_not():
    text = "film " * 300
    assert len(encoder_of("bart", max_length=1000).prompt_ids({"text": text})) == 128
    assert len(encoder_of("t5", max_length=1000).prompt_ids({"text": text})) == 301


def test_a_label_that_no_answer_could_hold_is_an_error_of_the_settings():
    labels = ("bad", "b" * 20)
    with pytest.raises(ConfigError, match=r"evaluate\.max_new_tokens=12 is less than the 22 tokens of the label 'bbb"):
        encoder_of("t5", labels=labels)
    assert encoder_of("t5", labels=labels, max_new_tokens=22)


@pytest.mark.parametrize(
    ("extra", "source", "target"),
    [({}, "eng_Latn", "deu_Latn"), ({"src_lang": "deu_Latn", "tgt_lang": "eng_Latn"}, "deu_Latn", "eng_Latn")],
)
def test_a_translators_tokenizer_marks_its_two_languages(tmp_path, extra, source, target):
    from transformers import M2M100Config, NllbTokenizer

    codes = ["eng_Latn", "deu_Latn"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", *codes]
    NllbTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        src_lang=codes[0],
        tgt_lang=codes[1],
        additional_special_tokens=codes,
    ).save_pretrained(tmp_path)
    M2M100Config().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(Source(str(tmp_path)), extra)
    example = encode(
        Seq2SeqEncoder(tokenizer, TaskConfig(completion="{target}"), max_length=64, max_new_tokens=12),
        text="ab",
        target="cd",
    )
    assert tokenizer.convert_ids_to_tokens(example.prompt_ids) == [source, "▁", "a", "b", "</s>"]
    assert tokenizer.convert_ids_to_tokens(example.completion_ids) == [target, "▁", "c", "d", "</s>"]
