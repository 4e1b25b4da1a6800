"""The server as a whole: the key, the full queue, clients that hang up, signals, and mistakes on the command line."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import openai
import pytest

from peftkit import pipeline
from peftkit.errors import AdapterError, ConfigError, OutputError
from peftkit.serve.server import KEY_NAME, load_service, name_adapters, read_key, take_address
from peftkit.ui import UI

from ..models import tiny

pytestmark = pytest.mark.xdist_group("serve")

LONG = {"model": "lively", "prompt": "a long tale", "max_tokens": 1500}


def begun(server, many=1):
    """Wait until so many answers are generated; the server says it, so there is nothing to guess."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    while True:
        connection.request("GET", "/health")
        if json.loads(connection.getresponse().read())["running"] == many:
            return


def test_a_key_is_asked_for_and_never_told(serving, adapters):
    key = "sk-correct-horse"
    with serving({"talk": adapters["talk"]}, key=key) as server:
        assert [one.id for one in server.client.models.list()] == ["talk", "lively"]
        assert server.client.completions.create(model="lively", prompt="x", max_tokens=2).choices
        for wrong in ("", "sk-wrong", key[:-1], key + "x", key.upper(), f"{key} {key}"):
            client = openai.OpenAI(base_url=f"{server.address}/v1", api_key=wrong or "-", max_retries=0)
            with pytest.raises(openai.AuthenticationError) as refused:
                client.completions.create(model="lively", prompt="x")
            assert refused.value.code == "invalid_api_key"
            assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
        for path, headers, expected in (
            ("/health", {}, 200),
            ("/v1/models", {}, 401),
            ("/v1/models", {"Authorization": f"Basic {key}"}, 401),
            ("/v1/models", {"Authorization": b"Bearer \xff\xfe"}, 401),
            ("/nowhere", {}, 401),
            ("/v1/models", {"Authorization": f"bearer {key}"}, 200),
        ):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            assert (answer.status, key.encode() in answer.read()) == (expected, False)
        assert key not in "\n".join(server.log)


def test_a_full_queue_is_429_with_a_time_to_come_again(serving, adapters):
    with serving({"talk": adapters["talk"]}, max_batch=1, max_waiting=1) as server:
        stream = server.client.completions.create(**LONG, stream=True)
        next(iter(stream))
        found = []
        waits = threading.Thread(
            target=lambda: found.append(server.client.completions.create(model="talk", prompt="x", max_tokens=3))
        )
        waits.start()
        while server.service.engine.counts() != (1, 1):
            pass
        with pytest.raises(openai.RateLimitError) as full:
            server.client.completions.create(model="lively", prompt="x")
        assert full.value.status_code == 429
        assert full.value.code == "rate_limit_exceeded"
        assert 1 <= int(full.value.response.headers["Retry-After"]) <= 60
        stream.close()
        waits.join()
        assert found[0].choices[0].text
        patient = server.client.with_options(max_retries=5)
        assert patient.completions.create(model="lively", prompt="x", max_tokens=2).choices


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_ends_its_answer(serving, adapters, stream):
    with serving({"talk": adapters["talk"]}, max_batch=1, max_waiting=0) as server:
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
        body = json.dumps(LONG | {"stream": stream})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        if stream:
            assert connection.getresponse().read(6) == b"data: "
        begun(server)
        (job,) = server.service.engine._admitted
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        begun(server, 0)
        assert (job.cancelled, job.writer.finish) == (True, None)  # it did not just come to its own end
        assert server.client.completions.create(model="talk", prompt="x", max_tokens=2).choices
        (line,) = [line for line in server.log if line.startswith("499")]
        assert line.startswith("499 /v1/completions lively: the client hung up in ")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_in_the_queue_gives_its_place_back(serving, adapters, stream):
    with serving({"talk": adapters["talk"]}, max_batch=1, max_waiting=1) as server:
        runs = server.client.completions.create(**LONG, stream=True)
        next(iter(runs))
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
        body = json.dumps(LONG | {"stream": stream})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        while server.service.engine.counts() != (1, 1):
            pass
        (first,), (waits,) = server.service.engine._admitted, server.service.engine._waiting
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        while server.service.engine.counts() != (1, 0):
            assert first.writer.finish is None
        assert waits.writer.tokens == []
        runs.close()


def test_a_body_that_does_not_come_is_408(serving, adapters, monkeypatch):
    monkeypatch.setattr("peftkit.serve.app._BODY_SECONDS", 0.1)
    with serving({"talk": adapters["talk"]}) as server:
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"model":')
        assert connection.getresponse().status == 408


def test_adapters_that_write_no_text_are_refused(serving, small, tmp_path):
    words = [*small, f"model.path={tiny('bert')}", "model.quantization=none", "train.max_length=120"]
    run = pipeline.run("sentiment", words=[*words, "evaluate.max_rows=0"], out=tmp_path / "run").folder
    with pytest.raises(AdapterError, match=r"gives labels or scores by a head.*`peftkit predict` answers with it"):
        load_service({"head": run}, max_waiting=1, max_batch=1, ui=UI(quiet=True))


def test_an_adapter_cannot_have_the_name_of_its_base(adapters):
    with pytest.raises(ConfigError, match="an adapter is called 'lively', as its base model is"):
        load_service({"lively": adapters["talk"]}, max_waiting=1, max_batch=1, ui=UI(quiet=True))


def outside(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "peftkit", "serve", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.parametrize(("sign", "host", "key"), [(signal.SIGINT, "127.0.0.1", "k"), (signal.SIGTERM, "0.0.0.0", "")])
def test_a_signal_lets_answers_end_and_leaves_quietly(adapters, sign, host, key):
    """Without a key, and open to others, it warns at the start."""
    process = outside("--name", f"t={adapters['talk']}", "--host", host, **({KEY_NAME: key} if key else {}))
    for line in process.stdout:
        if found := re.search(r"http://[\d.]+:\d+/v1", line):
            break
    assert host in found[0]
    client = openai.OpenAI(base_url=found[0], api_key=key or "-", max_retries=0)
    stream = iter(client.completions.create(**LONG | {"max_tokens": 300}, stream=True))
    next(stream)
    process.send_signal(sign)
    pieces = list(stream)
    assert pieces[-1].choices[0].finish_reason is not None
    out, err = process.communicate(timeout=60)
    warning = (
        "warning: anyone who reaches 0.0.0.0 can use this server; give it a key with --key-file or PEFTKIT_API_KEY\n"
    )
    assert (process.returncode, err) == (0, "" if key else warning)
    assert out.splitlines()[-1] == "stopped"
    assert re.search(r"^\d\d:\d\d:\d\d 200 /v1/completions lively: 11 \+ \d+ tokens in ", out, flags=re.M)


def test_names_are_those_of_the_folders_or_ones_own(tmp_path):
    run = tmp_path / "sentiment-1"
    assert name_adapters([run / "adapter", tmp_path / "b c"], [f"mine={run}"]) == {
        "sentiment-1": run / "adapter",
        "b-c": tmp_path / "b c",
        "mine": run,
    }
    for folders, named, said in (
        ([], [], "no adapter to serve"),
        ([run, tmp_path / "x" / "sentiment-1"], [], "would be called 'sentiment-1', as"),
        ([run], [f"sentiment-1={run}"], "two adapters are called 'sentiment-1'"),
        ([tmp_path / "base"], [], "as the base model is"),
        ([], ["mine"], "is not NAME=FOLDER"),
        ([], ["=x"], "is not NAME=FOLDER"),
        ([], ["x="], "is not NAME=FOLDER"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            name_adapters(folders, named)


def test_the_key_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_NAME, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(KEY_NAME, " from-environment\n")
    assert read_key(None) == "from-environment"
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert read_key(file) == "from-file"
    for content, said in (
        (b"\n", "holds no key"),
        (b"a b", "holds no key"),
        ("ü".encode(), "holds no key"),
        (b"\xff", "no text"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            read_key(file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_key(tmp_path / "none")
    monkeypatch.setenv(KEY_NAME, "")
    with pytest.raises(ConfigError, match=f"{KEY_NAME} holds no key"):
        read_key(None)


def test_an_address_that_cannot_be_had():
    with take_address("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            take_address("127.0.0.1", port)
    with pytest.raises(OutputError, match=r"cannot listen on no\.such\.host\.invalid:80"):
        take_address("no.such.host.invalid", 80)


def test_without_the_framework_it_says_what_to_install(adapters, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    out, err = outside(str(adapters["talk"]), PYTHONPATH=path).communicate(timeout=60)
    assert out == ""
    assert err == "error: peftkit serve needs uvicorn, which is not installed; run `pip install 'peftkit[serve]'`\n"
