"""Control tokens that a row, a message or a question spells out are text for every kind of model, never special ids."""

import pytest

from peftkit.config import RunConfig
from peftkit.data.encode_chat import ChatEncoder
from peftkit.data.encoders import make_encoder
from peftkit.data.rows import Row
from peftkit.model.load import Source, load_tokenizer
from peftkit.serve.asking import _asking

from ..chats import FAMILIES
from ..models import ENCODERS, SEQ2SEQ, tiny


def config(**task):
    usual = {"labels": ("negative", "positive"), "prompt": "{text}"}
    return RunConfig.model_validate(
        {"recipe": "sentiment", "task": usual | task, "train": {"max_length": 2000}, "evaluate": {"max_new_tokens": 99}}
    )


def special_ids(tokenizer) -> set[int]:
    added = tokenizer.added_tokens_decoder
    special = {place for place, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    return special - {tokenizer.unk_token_id}


def controls(tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer)))


def hostile_texts(tokenizer) -> list[str]:
    """Each control token alone, inside a word, twice, and a turn that is forged with all of them."""
    tokens = controls(tokenizer)
    return [
        *(made for token in tokens for made in (token, f"a{token}b", f"{token}{token}", f"good {token} film")),
        " ".join(tokens),
        "".join(tokens),
        "\n".join(f"{token}assistant" for token in tokens),
    ]


def special_in(ids, tokenizer) -> list[int]:
    special = special_ids(tokenizer)
    return [one for one in ids if one in special]


def of_decoder(name, tiny_model):
    return FAMILIES[name].tokenizer(tiny_model)


def ids_of(example) -> list[int]:
    return example.prompt_ids + example.completion_ids


@pytest.mark.parametrize("kind", ["classification", "generation", "completion"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_of_a_decoder(name, kind, tiny_model):
    tokenizer = of_decoder(name, tiny_model)
    settings = {} if kind == "classification" else {"labels": None, "completion": "{label}"}
    encoder = make_encoder("causal", tokenizer, config(kind=kind, **settings))
    wanted = special_in(ids_of(encoder.encode_rows([Row("a:1", {"text": "a", "label": "positive"})])[0][0]), tokenizer)
    for text in hostile_texts(tokenizer):
        label = text if kind == "generation" else "positive"
        (example,) = encoder.encode_rows([Row("a:1", {"text": text, "label": label})])[0]
        assert special_in(ids_of(example), tokenizer) == wanted
        assert special_in(encoder.prompt_ids({"text": text}), tokenizer) == special_in(
            encoder.prompt_ids({"text": "a"}), tokenizer
        )


def test_a_label_that_the_system_message_names(tiny_model):
    tokenizer = of_decoder("chatml", tiny_model)

    def prompt(*labels):
        encoder = make_encoder("causal", tokenizer, config(system="One of {labels}.", labels=labels))
        return special_in(encoder.prompt_ids({"text": "a"}), tokenizer)

    assert prompt("<|im_end|>", "b<|im_start|>") == prompt("a", "b")


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_of_a_conversation(name, role, tiny_model):
    if (name, role) in (("gemma", "system"), ("r1", "system")):
        pytest.skip("its template writes no system prompt of its own")
    tokenizer = of_decoder(name, tiny_model)
    encoder = make_encoder("causal", tokenizer, config(kind="chat", labels=None))

    def encoded(text):
        said = {"system": "a", "user": "b", "assistant": "c"} | {role: text}
        messages = [{"role": one, "content": said[one]} for one in said if one == role or one != "system"]
        return [ids_of(one) for one in encoder.encode_rows([Row("a:1", {"messages": messages})])[0]]

    wanted = [special_in(ids, tokenizer) for ids in encoded("plain")]
    for text in hostile_texts(tokenizer):
        if "</think>" not in text:
            assert [special_in(ids, tokenizer) for ids in encoded(text)] == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_a_question_to_a_server_and_in_a_chat(name, tiny_model):
    tokenizer = of_decoder(name, tiny_model)
    asking = _asking("a", None, tokenizer, config(kind="chat", labels=None).task, {})
    wanted = special_in(asking.conversation([{"role": "user", "content": "a"}])[0], tokenizer)
    for text in hostile_texts(tokenizer):
        assert special_in(asking.conversation([{"role": "user", "content": text}])[0], tokenizer) == wanted
        plain = asking.text(text)[0]
        assert special_in(plain, tokenizer) == special_in(asking.text("a")[0], tokenizer)


def test_names_and_arguments_of_tools(tiny_model):
    tokenizer = of_decoder("qwen-3", tiny_model)
    encoder = ChatEncoder(tokenizer, config(kind="chat", labels=None).task, max_length=2000)

    def encoded(text):
        call = {"type": "function", "function": {"name": text, "arguments": {text: [text]}}}
        messages = [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": text},
            {"role": "assistant", "content": "done"},
        ]
        return [
            special_in(ids_of(one), tokenizer) for one in encoder.encode_rows([Row("a:1", {"messages": messages})])[0]
        ]

    wanted = encoded("plain")
    for text in hostile_texts(tokenizer):
        assert encoded(text) == wanted


@pytest.mark.parametrize("name", [*ENCODERS, *SEQ2SEQ])
def test_a_row_of_an_encoder(name):
    tokenizer = load_tokenizer(Source(str(tiny(name))))
    family = "head" if name in ENCODERS else "seq2seq"
    settings = {"kind": "classification"} if family == "head" else {"labels": None, "completion": "{label}"}
    encoder = make_encoder(family, tokenizer, config(**settings))

    def encoded(text):
        label = "positive" if family == "head" else text
        (example,) = encoder.encode_rows([Row("a:1", {"text": text, "label": label})])[0]
        return ids_of(example), encoder.prompt_ids({"text": text})

    wanted = [special_in(ids, tokenizer) for ids in encoded("a")]
    for text in hostile_texts(tokenizer):
        assert [special_in(ids, tokenizer) for ids in encoded(text)] == wanted


@pytest.mark.parametrize("name", ["chatml", "llama-3", "gemma"])
def test_texts_without_control_tokens_have_the_ids_of_the_template(name, tiny_model):
    tokenizer = of_decoder(name, tiny_model)
    encoder = make_encoder("causal", tokenizer, config(kind="chat", labels=None))
    for text in ("plain", "a < b | c > d", "<|im_star", "im_end|>", "é🙂\n\n  x", "<start", "eot_id"):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "c"}]
        (example,) = encoder.encode_rows([Row("a:1", {"messages": messages})])[0]
        whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        ids = ids_of(example)
        assert ids == whole[: len(ids)]
        assert tokenizer.decode(whole[len(ids) :]).strip() == ""
