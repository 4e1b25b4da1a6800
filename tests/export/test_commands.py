"""`peftkit export` on the command line."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from peftkit.cli import app
from peftkit.errors import ConfigError

from .bases import adapter, base

run = CliRunner().invoke


@pytest.mark.parametrize(
    ("form", "out", "more"),
    [
        ("portable", "out", ["--dtype", "bf16"]),
        ("gguf-lora", "out.gguf", []),
        ("gguf", "out.gguf", ["--dtype", "q8_0"]),
        ("mlx", "out", ["--dtype", "f16"]),
    ],
)
def test_each_form_says_what_it_wrote(form, out, more, tmp_path):
    done = run(app, ["export", str(adapter("llama")), str(tmp_path / out), "--to", form, *more])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / out}: " in done.stdout
    assert (tmp_path / out).exists()


def test_json_alone_is_printed(tmp_path):
    done = run(app, ["export", str(adapter("llama")), str(tmp_path / "out.gguf"), "--to", "gguf", "--json"])
    report = json.loads(done.stdout)
    assert (report["to"], report["dtype"], report["architecture"]) == ("gguf", "f16", "llama")
    assert report["bytes"] == (tmp_path / "out.gguf").stat().st_size
    assert "has no passport" in report["warnings"][0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere", "out", "--to", "portable"], 5, "there is no adapter folder 'nowhere'"),
        (["nowhere", "out.gguf", "--to", "gguf"], 5, "there is no adapter folder 'nowhere'"),
        (["runs/none", "out.gguf", "--to", "gguf"], 5, "there is no adapter folder 'runs/none'"),
        (["a", "out", "--to", "onnx"], 2, "--to onnx is not one of portable, gguf-lora, gguf, mlx, ollama"),
        (["a", "out.gguf", "--to", "gguf", "--onto", "both"], 2, "--onto both is not one of original, trained"),
        (["a", "out.gguf", "--to", "gguf", "--dtype", "int3"], 2, "--dtype int3 is not one of f32, f16"),
        (["ADAPTER", "out.gguf", "--to", "gguf", "--onto", "trained"], 2, "nothing says that"),
        (["BASE", "out.gguf", "--to", "gguf", "--base", "x"], 2, "is a model, which needs no --base"),
        (["BASE", "out", "--to", "mlx"], 5, "is no adapter: it has no adapter_config.json"),
    ],
)
def test_mistakes_get_one_sentence(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {"ADAPTER": str(adapter("llama")), "BASE": str(base("llama"))}
    done = run(app, ["export", *(known.get(word, word) for word in words)])
    assert message in str(done.exception)
    assert done.exception.exit_code == code
    assert not list(tmp_path.iterdir())


def test_the_commands_of_servers_are_lines_for_a_shell(tmp_path):
    folder = adapter("llama")
    done = run(app, ["serve", str(folder), "--print", "--port", "8123"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    commands = [shlex.split(line) for line in lines if line and not line.startswith("#")]
    assert [one[0] for one in commands if "8123" in one] == ["vllm", "llama-server", "python"]
    assert all(str(base("llama")) in one for one in commands if one[0] in ("vllm", "python"))
    refused = run(app, ["serve", str(folder), str(folder), "--print"])
    assert isinstance(refused.exception, ConfigError)
