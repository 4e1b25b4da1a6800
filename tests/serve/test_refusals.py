"""What is not answered: each in OpenAI's form, with its status, and the server goes on."""

import http.client
import json
from urllib.parse import urlsplit

import openai
import pytest

from peftkit.serve.app import LARGEST_BODY

pytestmark = pytest.mark.xdist_group("serve")

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
SECRET = "my secret words"
HELLO = [{"role": "user", "content": SECRET}]
ASK = {"model": "talk", "messages": HELLO, "max_tokens": 2}


def call(server, method, path, body=b"", **headers):
    """A request as bytes; give status, headers and the JSON of the response."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    kind = {"Content-Type": "application/json"} if method == "POST" else {}
    connection.request(method, path, body, kind | {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, answer.headers, content


def refused(server, path, body, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, content = call(server, "POST", path, body, **headers)
    error = content["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 300
    return status, error


@pytest.fixture(autouse=True)
def still_answers(server):
    yield
    assert call(server, "POST", CHAT, json.dumps(ASK))[0] == 200
    assert SECRET not in "\n".join(server.log)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b'{"model": "talk"}',
        b"[" * 100_000,
        b'{"model": "talk", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "talk", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        b'{"model": "talk", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "talk", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "talk", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "talk", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1' + b"0" * 5000 + b"}",
    ],
    ids=range(14),
)
def test_bodies_that_are_none(server, body):
    for path in (CHAT, COMPLETION):
        assert refused(server, path, body)[0] == 400


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model", [1, None, [], {}]),
        ("messages", [None, "hello", {}, [], ["hello"], [None], [{}], [{"role": "user"}], [{"content": "x"}]]),
        (
            "messages",
            [[{"role": "king", "content": "x"}], [{"role": "user", "content": 1}], [{"role": 1, "content": "x"}]],
        ),
        ("messages", [[{"role": "user", "content": ""}], [*HELLO, {"role": "assistant", "content": "x"}]]),
        ("messages", [[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]]),
        ("messages", [[{"role": "system", "content": "x"}], [{"role": "assistant", "content": None}, *HELLO]]),
        ("max_tokens", [0, -1, 1.5, "5", True, [], 10**30]),
        ("max_completion_tokens", [0, "5", 2**31]),
        ("temperature", [-0.1, 2.1, "0", [], True]),
        ("top_p", [-0.1, 1.1, "1"]),
        ("seed", [1.5, "7", 2**63, -(2**63) - 1]),
        ("stop", ["", [""], ["a"] * 5, 5, [5], [None]]),
        ("stream", ["yes", 1, []]),
        ("stream_options", [True, {"include_usage": "yes"}]),
        ("n", [2, 0, "1"]),
        ("logprobs", [True, 1]),
        ("tools", [[{"type": "function", "function": {"name": "look"}}], "x"]),
        ("response_format", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}]),
        ("frequency_penalty", [0.5]),
        ("presence_penalty", [-1]),
        ("logit_bias", [{"5": 100}]),
        ("reasoning_effort", ["high"]),
        ("nonsense", [1, {}, "x" * 5000]),
    ],
)
def test_values_that_are_none(server, key, values):
    for value in values:
        status, error = refused(server, CHAT, ASK | {key: value})
        assert status == 400, value
        assert key[:64] in error["message"] or error["param"] == key


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1, "logprobs": False, "tools": None, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"user": "me", "metadata": {"a": "b"}, "store": False, "response_format": {"type": "text"}, "stop": None},
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
            ]
        },
        {"temperature": 0, "top_p": 1, "seed": -5, "stream": False, "max_completion_tokens": 3},
    ],
)
def test_values_that_ask_for_nothing_are_taken(server, more):
    assert call(server, "POST", CHAT, json.dumps(ASK | more))[0] == 200


@pytest.mark.parametrize(
    "prompt", ["", [], [[]], [""], [-1], [10**6], [2**70], [True], [1.5], {}, None, [1, "a"], ["x"] * 99]
)
def test_prompts_that_are_none(server, prompt):
    status, error = refused(server, COMPLETION, {"model": "lively", "prompt": prompt})
    assert (status, error["param"]) == (400, "prompt")


@pytest.mark.parametrize("name", ["gpt-4", "", "talk ", "../talk", "x" * 10_000, "default"])
def test_unknown_models(server, name):
    for path, ask in ((CHAT, ASK), (COMPLETION, {"prompt": "x"})):
        status, error = refused(server, path, ask | {"model": name})
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "there are: mood, topic, talk, lively" in error["message"]
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve(name or "none")


def test_what_is_too_long(server):
    limit = server.service.models["lively"].limit
    for path, more in (
        (CHAT, {"messages": [{"role": "user", "content": "x" * limit}]}),
        (CHAT, {"max_tokens": limit}),
        (COMPLETION, {"messages": None, "prompt": "x" * limit, "max_tokens": 1}),
        (COMPLETION, {"messages": None, "prompt": [5] * 5, "max_tokens": limit - 4}),
    ):
        ask = {key: value for key, value in (ASK | more).items() if value is not None}
        status, error = refused(server, path, ask)
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert str(limit) in error["message"]
    whole = {"model": "lively", "prompt": [5] * (limit - 2), "max_tokens": 2}
    assert call(server, "POST", COMPLETION, json.dumps(whole))[0] == 200
    rest = {"model": "lively", "prompt": [5] * (limit - 2), "max_tokens": None}
    assert call(server, "POST", COMPLETION, json.dumps(rest))[2]["usage"]["completion_tokens"] <= 2


def test_what_is_too_large(server):
    body = json.dumps(ASK | {"metadata": {"a": "x" * LARGEST_BODY}}).encode()
    assert refused(server, CHAT, body)[0] == 413


def test_what_is_not_said_to_be_json(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert refused(server, CHAT, ASK, Content_Type=kind)[0] == 415
    status, _, _ = call(server, "POST", CHAT, json.dumps(ASK), Content_Type="Application/JSON; charset=utf-8")
    assert status == 200


def test_other_addresses_and_methods(server):
    for method, path, expected in (
        ("GET", "/", 404),
        ("GET", "/v1/../../etc/passwd", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
    ):
        status, _, content = call(server, method, path)
        assert status == expected
        assert content["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_another_name_of_the_server_is_refused_on_the_loopback_address(server, host):
    assert call(server, "GET", "/v1/models", Host=host)[0] == 421
    for own in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]", "[::1]:8000"):
        assert call(server, "GET", "/v1/models", Host=own)[0] == 200


def test_health_counts(server):
    assert call(server, "GET", "/health")[2] == {"status": "ok", "running": 0, "waiting": 0}


def test_the_log_has_a_line_for_each_request(server):
    server.log.clear()
    call(server, "POST", CHAT, json.dumps(ASK))
    call(server, "POST", CHAT, json.dumps(ASK | {"model": SECRET}))
    call(server, "POST", CHAT, json.dumps(ASK | {"stream": "x"}))
    first, *refusals = server.log
    assert first.startswith(f"200 {CHAT} talk: ")
    assert [line.split(" in ")[0] for line in refusals] == [f"404 {CHAT} refused", f"400 {CHAT} refused"]
