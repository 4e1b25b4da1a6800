"""What a template wrote is encoded as a whole text is, piece after piece, and rows write no control tokens."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from peftkit.data.template import Template
from peftkit.errors import ConfigError

from ..chats import FAMILIES


def pieces(*, rstrip=False):
    """A tokenizer that marks words as SentencePiece does, and merges line breaks."""
    vocabulary = {
        token: place for place, token in enumerate(["<s>", "<end>", "?", "▁", "▁a", "▁b", "a", "b", "\n", "\n\n"])
    }
    backend = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", "b"), ("\n", "\n")], unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<end>", special=True, rstrip=rstrip)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", bos_token="<s>", chat_template="x")


@pytest.mark.parametrize("rstrip", [False, True])
def test_pieces_are_encoded_as_they_are_in_the_whole(rstrip):
    tokenizer = pieces(rstrip=rstrip)
    template = Template(tokenizer)
    written = ["<s>b", " a<end>", "\n\na b", " b<end>"]
    ids, before = [], ""
    for piece in written:
        ids += template.encode(piece, before)
        before += piece
    assert ids == tokenizer("".join(written), add_special_tokens=False)["input_ids"]
    assert template.encode("b") != template.encode("b", "<s>"), "a word alone begins a text"


def test_ids_that_would_merge_across_the_border_are_kept_apart():
    template = Template(pieces())
    assert template.encode("<s>\n\n") == [0, 9]
    assert template.encode("\na", "<s>\n") == template.encode("\na")


def test_a_batch_is_encoded_as_its_texts_are():
    template = Template(pieces())
    texts, before = ["b", "b", "\na", "b", template.veil("<end>"), ""], ["", "<s>", "<s>\n", "a<s>", "<s>", "<s>a"]
    one_by_one = [template.encode(text, first) for text, first in zip(texts, before, strict=True)]
    assert template.encode_after(texts, before) == one_by_one
    assert template.encode_after([], []) == []
    assert [one.ids for one in template.encode_all(texts)] == [template.encode(text) for text in texts]


def test_offsets_come_when_asked_and_change_no_ids(tiny_model):
    tokenizer = FAMILIES["chatml"].tokenizer(tiny_model)
    tokenizer("a b c", truncation=True, max_length=1, padding="max_length")  # leaves its settings in the backend
    template = Template(tokenizer)
    texts = ["<|im_start|>Grüße ☂", "", "a" + template.veil("<|im_end|>")]
    without, offsets = template.encode_all(texts), template.encode_all(texts, offsets=True)
    assert [one.ids for one in without] == [one.ids for one in offsets]
    assert without[0].ids == tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    assert [one.offsets is None for one in without + offsets] == [True, True, True, False, False, True]
    assert offsets[0].offsets.token_to_chars(0) == (0, len("<|im_start|>"))
    plain = template.encode_pieces(["<|im_end|>"], plain=True)[0].ids
    assert template.special_ids.isdisjoint(plain)
    assert tokenizer.decode(plain) == "<|im_end|>"


def test_an_answer_ends_with_the_first_control_token_after_it(tiny_model):
    template = Template(FAMILIES["chatml"].tokenizer(tiny_model))
    assert template.end_of("<|im_end|>\n<|im_start|>") == "<|im_end|>"
    assert template.end_of(" .<|im_end|>") == " .<|im_end|>"
    assert template.end_of("\n\n") == "<|im_end|>"


def test_a_turn_ends_with_its_last_control_token(tiny_model):
    template = Template(FAMILIES["chatml"].tokenizer(tiny_model))
    assert template.turn_of("a<|im_end|>\n") == "a<|im_end|>"
    assert template.turn_of("<|im_start|>a<|im_end|>") == "<|im_start|>a<|im_end|>"
    assert template.turn_of("a \n") == "a<|im_end|>"
    assert template.turn_of("<|im_start|>a") == "<|im_start|>a<|im_end|>"


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "a<|im_start|>b", "\ue0000\ue001", "\ue000999\ue001", "\ue000", "plain"]
)
def test_a_veiled_text_is_encoded_as_plain_text(text, tiny_model):
    tokenizer = FAMILIES["chatml"].tokenizer(tiny_model)
    template = Template(tokenizer)
    ids = template.encode(template.veil(text))
    assert template.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    assert template.veil({"a": [text, 1, None]}) == {"a": [template.veil(text), 1, None]}


def test_what_the_template_refuses_is_named(tiny_model):
    tokenizer = FAMILIES["mistral"].tokenizer(tiny_model)
    with pytest.raises(ConfigError, match="refuses this conversation: roles must alternate"):
        Template(tokenizer).write([{"role": "assistant", "content": "a"}])
    template = Template(tokenizer, "{{ word }}{{ messages[0].content }}{{ add_generation_prompt }}", {"word": "say "})
    assert template.write([{"role": "user", "content": "a"}], answer=True) == "say aTrue"
