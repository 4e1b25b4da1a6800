"""Answers over the network are those of `peftkit predict` and of transformers' own `generate`, alone and in a crowd."""

import concurrent.futures
import re
from pathlib import Path

import pytest

from peftkit.judge import predict

from .reference import chat_ids, generated, text_of, tokenizer

pytestmark = pytest.mark.xdist_group("serve")

TEXTS = ["a lovely film", "3 it was a dull book by no. 77", "so-so", "a long, long tale of a cold house by the sea"]
TALK = [
    {"role": "user", "content": "What of the river?"},
    {"role": "assistant", "content": "It flows."},
    {"role": "user", "content": "And the harbour, at night?"},
]
BASE = "lively"


def said(server, model, messages, **more):
    return server.client.chat.completions.create(model=model, messages=messages, **more).choices[0]


def user(text):
    return [{"role": "user", "content": text}]


def test_models_are_the_adapters_and_their_base(server):
    assert [one.id for one in server.client.models.list()] == ["mood", "topic", "talk", BASE]
    assert server.client.models.retrieve("talk").object == "model"


@pytest.mark.parametrize("name", ["mood", "topic"])
def test_one_message_is_asked_in_the_recipes_wording_as_predict_asks(server, adapters, name):
    expected = [one["answer"] for one in predict(adapters[name], TEXTS)]
    assert len(set(expected)) == len(TEXTS)
    assert [said(server, name, user(text)).message.content.strip() for text in TEXTS] == expected


@pytest.mark.parametrize("name", ["mood", "talk", BASE])
def test_conversations_are_those_of_generate(server, adapters, lively_model, name):
    system = [{"role": "system", "content": "Be brief."}] if name == "talk" else []
    prompt = chat_ids(lively_model, [*system, *TALK])
    expected = generated(lively_model, adapters.get(name), prompt, 40)
    whole = server.client.chat.completions.create(model=name, messages=TALK, max_tokens=40)
    assert whole.choices[0].message.content == text_of(lively_model, expected)
    ended = len(expected) < 40
    assert whole.choices[0].finish_reason == ("stop" if ended else "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(prompt), len(expected) + ended)
    assert whole.usage.total_tokens == len(prompt) + len(expected) + ended


@pytest.mark.parametrize("name", ["topic", BASE])
def test_completions_continue_a_text_or_tokens(server, adapters, lively_model, name):
    ids = tokenizer(lively_model)(TEXTS[1])["input_ids"]
    expected = text_of(lively_model, generated(lively_model, adapters.get(name), ids, 20))
    for prompt in (TEXTS[1], ids):
        done = server.client.completions.create(model=name, prompt=prompt, max_tokens=20)
        assert done.choices[0].text == expected
    several = server.client.completions.create(model=name, prompt=[TEXTS[0], TEXTS[1]], max_tokens=20)
    assert [one.index for one in several.choices] == [0, 1]
    assert several.choices[1].text == expected


def test_a_control_token_in_a_message_is_plain_text(server, lively_model):
    ids = server.client.chat.completions.create(model=BASE, messages=user("a<|im_end|>b"), max_tokens=1).usage
    plain = server.client.chat.completions.create(model=BASE, messages=user("ab"), max_tokens=1).usage
    assert ids.prompt_tokens - plain.prompt_tokens == len("<|im_end|>")


def test_a_stream_gives_what_the_whole_answer_is(server):
    for name in ("talk", "mood"):
        whole = server.client.chat.completions.create(model=name, messages=TALK, max_tokens=60)
        stream = server.client.chat.completions.create(
            model=name, messages=TALK, max_tokens=60, stream=True, stream_options={"include_usage": True}
        )
        *pieces, usage = list(stream)
        assert pieces[0].choices[0].delta.role == "assistant"
        assert "".join(one.choices[0].delta.content or "" for one in pieces) == whole.choices[0].message.content
        assert [one.choices[0].finish_reason for one in pieces][-1] == whole.choices[0].finish_reason
        assert all(one.choices[0].finish_reason is None for one in pieces[:-1])
        assert len(pieces) > 10
        assert usage.choices == []
        assert usage.usage == whole.usage


def test_a_stream_of_several_completions_keeps_them_apart(server):
    ask = {"model": "topic", "prompt": TEXTS, "max_tokens": 24}
    whole = [one.text for one in server.client.completions.create(**ask).choices]
    streamed = [""] * len(TEXTS)
    for piece in server.client.completions.create(**ask, stream=True):
        streamed[piece.choices[0].index] += piece.choices[0].text
    assert streamed == whole


def test_the_example_of_the_page(serving, adapters):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    with serving({"mails": adapters["mood"]}) as server:
        names = {}
        exec(example.replace("http://127.0.0.1:8000", server.address), names)
    (answer,) = predict(adapters["mood"], ["Where is my parcel?"])
    assert names["said"].choices[0].message.content.strip() == answer["answer"]


def test_a_stop_string_ends_the_answer_before_it(server):
    text = said(server, "talk", TALK, max_tokens=60).message.content
    stop = text[20:23]
    for stream in (False, True):
        given = server.client.chat.completions.create(
            model="talk", messages=TALK, max_tokens=60, stop=[stop, "never in it"], stream=stream
        )
        if stream:
            pieces = list(given)
            found = "".join(one.choices[0].delta.content or "" for one in pieces)
            finish = pieces[-1].choices[0].finish_reason
        else:
            found, finish = given.choices[0].message.content, given.choices[0].finish_reason
        assert found == text[: text.index(stop)]
        assert finish == "stop"


def test_a_seed_gives_the_same_answer_and_another_seed_another(server):
    ask = {"temperature": 1.0, "max_tokens": 30}
    first, again, other = (said(server, "talk", TALK, seed=seed, **ask).message.content for seed in (7, 7, 8))
    assert first == again != other
    greedy = said(server, "talk", TALK, max_tokens=30).message.content
    assert greedy != first
    assert said(server, "talk", TALK, max_tokens=30, temperature=0).message.content == greedy
    assert said(server, "talk", TALK, max_tokens=30, temperature=1.5, top_p=0.0, seed=1).message.content == greedy


def test_32_clients_at_once_get_what_each_would_get_alone(server, adapters, lively_model):
    """Of all models, in one batch: prompts of many lengths, answers of many lengths, streams and whole ones."""
    names = ["mood", "topic", "talk", BASE]
    asked = []
    for place in range(32):
        messages = [*TALK[:2], *user(f"{'no ' * place}{place}?")]
        asked.append((names[place % 4], messages, 10 + place, place % 3 == 0))
    expected = []
    for name, messages, count, _ in asked:
        system = [{"role": "system", "content": "Be brief."}] if name == "talk" else []
        prompt = chat_ids(lively_model, [*system, *messages])
        expected.append(text_of(lively_model, generated(lively_model, adapters.get(name), prompt, count)))

    def ask(one):
        name, messages, count, stream = one
        given = server.client.chat.completions.create(model=name, messages=messages, max_tokens=count, stream=stream)
        if stream:
            return "".join(piece.choices[0].delta.content or "" for piece in given)
        return given.choices[0].message.content

    assert server.service.engine.mixer is not None
    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        assert list(clients.map(ask, asked)) == expected
    assert server.service.engine.counts() == (0, 0)


def test_clients_of_adapters_that_cannot_be_mixed_are_answered_in_groups(serving, adapters, dora, lively_model):
    names = {"dora": dora, "talk": adapters["talk"], BASE: None}
    with serving({"dora": dora, "talk": adapters["talk"]}) as server:
        assert server.service.engine.mixer is None
        asked = [(name, f"no. {place}") for place in range(4) for name in names]
        with concurrent.futures.ThreadPoolExecutor(len(asked)) as clients:
            found = list(
                clients.map(
                    lambda one: server.client.completions.create(model=one[0], prompt=one[1], max_tokens=12), asked
                )
            )
    for (name, text), done in zip(asked, found, strict=True):
        ids = tokenizer(lively_model)(text)["input_ids"]
        assert done.choices[0].text == text_of(lively_model, generated(lively_model, names[name], ids, 12))
