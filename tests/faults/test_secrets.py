"""Tokens of the environment, a file, an address or a word of the command line are found nowhere afterwards."""

import os
import subprocess
import sys

import pytest

from peftkit.tokens import masked

from .children import at_step, in_a_child, kill

CANARIES = {
    "HF_TOKEN": "hf_" + "C4n4ry" * 5 + "Zz9x",
    "OPENAI_API_KEY": "sk-proj-" + "C4n4ry" * 6,
    "WANDB_API_KEY": "c4fe" * 10,
    "AWS_SECRET_ACCESS_KEY": "C4n4ry/plus+" + "x9" * 14,
    "DB_PASSWORD": "correct-horse-battery",
}
"""Three that are known by their form, and two by the names of their variables alone."""
FORMED = {"token": CANARIES["HF_TOKEN"], "key": CANARIES["OPENAI_API_KEY"], "aws": "AKIA" + "C4NARY7Q" * 2}


@pytest.fixture
def canaries(monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def found_in(folder, said: str = "") -> set[str]:
    """The canaries that any file of a folder, a name of a file, or a text holds."""
    texts = [said.encode(), *(str(file).encode() for file in folder.rglob("*"))]
    texts += [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    return {value for value in (*CANARIES.values(), *FORMED.values()) if any(value.encode() in text for text in texts)}


def peftkit(*words, **variables) -> tuple[int, str]:
    """Run a command line of its own; return its code, and all that it said."""
    command = [sys.executable, "-m", "peftkit", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    return done.returncode, done.stdout + done.stderr


def test_a_run_and_all_that_is_made_of_it(alone, canaries, tmp_path, capfd):
    words, _ = alone
    out = tmp_path / "run"

    def say():
        sys.stdout = (tmp_path / "said").open("a", buffering=1)

    assert in_a_child(["run", "sentiment", *words, "--out", out], lambda: at_step(5, kill)) < 0
    assert found_in(tmp_path) == set()
    for argv in (
        ["resume", out],
        ["card", out],
        ["inspect", out],
        ["predict", out, "a good film"],
        ["pack", out, tmp_path / "a.peft.zip"],
        ["unpack", tmp_path / "a.peft.zip", tmp_path / "b"],
        ["push", out, tmp_path / "a.peft.zip" / "under a file"],
        ["doctor"],
    ):
        in_a_child(argv, say)
    code, said = peftkit("push", out, "hf:someone/reviews", HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 10
    said += "".join(capfd.readouterr())
    assert (tmp_path / "said").stat().st_size > 1000
    assert (out / "report.html").is_file()
    assert (tmp_path / "b" / "peftkit.json").is_file()
    assert found_in(tmp_path, said) == set()


@pytest.mark.parametrize("kind", ["PeftkitError", "RuntimeError"])
@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_a_crash_whose_error_holds_it(kind, options, alone, canaries, tmp_path, capfd):
    words, _ = alone

    def crash():
        from peftkit.errors import PeftkitError

        raise {"PeftkitError": PeftkitError, "RuntimeError": RuntimeError}[kind](
            f"refused {' '.join(CANARIES.values())} at https://me:{CANARIES['DB_PASSWORD']}@host/x"
        )

    assert in_a_child([*options, "run", "sentiment", *words, "--out", tmp_path / "run"], lambda: at_step(2, crash)) == 1
    said = "".join(capfd.readouterr())
    assert "refused ***" in said
    assert found_in(tmp_path, said) == set()


@pytest.mark.parametrize("canary", FORMED.values(), ids=FORMED)
@pytest.mark.parametrize(
    "setting",
    [
        "model.extra.token={}",
        "model.path=https://me:{}@host/model",
        "train.extra.run_name=of {}",
        "task.system=use {}",
        "model.chat_template_kwargs.a={{'b': ['{}']}}",
        "data.label_names.{}=positive",
        "train.max_steps={}",
        "train.{}=1",
        "{}",
        "data.path=sql:postgresql://me:{}@host/a#select 1",
    ],
)
def test_a_setting_that_holds_it_is_refused_without_saying_it(setting, canary, tmp_path, capfd):
    word = setting.format(canary).replace("'", '"')
    code = in_a_child(["run", "sentiment", "model.path=./nosuch", word, "--out", tmp_path / "run"])
    said = "".join(capfd.readouterr())
    assert code == 2
    assert "error: " in said
    assert canary not in said
    assert not (tmp_path / "run").exists()


def test_a_file_that_holds_it(tmp_path, canaries):
    path = tmp_path / "mine.yaml"
    path.write_text(f"model:\n  extra:\n    token: {CANARIES['HF_TOKEN']}\n")
    code, said = peftkit("run", "sentiment", "--config", path, "--out", tmp_path / "run")
    assert code == 2
    assert "model.extra.token: a token or password would be written into the run's files" in said
    assert "HF_TOKEN" in said
    assert CANARIES["HF_TOKEN"] not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["token", "hub_token", "api_key", "wandb_api_key", "password", "client_secret"])
def test_a_secret_of_any_form_is_known_by_its_name(name, tmp_path):
    from peftkit.errors import ConfigError
    from peftkit.tokens import require_writable

    with pytest.raises(ConfigError, match="a token or password"):
        require_writable(f"train.extra.{name}", "plain word", "here")
    require_writable(f"train.extra.{name}", None, "here")
    require_writable(f"data.label_names.{name}", "positive", "here")


def test_names_of_tokens_of_a_vocabulary_are_none():
    from peftkit.tokens import require_writable

    for name in ("eos_token", "pad_token", "max_tokens", "keys", "token_type"):
        require_writable(f"train.extra.{name}", "<|im_end|>", "here")


def test_masking_leaves_the_rest_alone(canaries):
    assert masked(f"a {CANARIES['WANDB_API_KEY']} b") == "a *** b"
    assert masked("https://me:pass@host/a and data.path=a.csv") == "https://***@host/a and data.path=a.csv"
    assert masked("train.seed: 'x' is not usable") == "train.seed: 'x' is not usable"
