"""The commands as a person and a script use them, and the same from Python. One tiny run serves most tests."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from peftkit import load_recipe, screen
from peftkit.ui import UI

pytestmark = pytest.mark.xdist_group("commands")

TEXTS = ["a lovely film", "a dull book"]
# What a spreadsheet on Windows writes: a byte order mark, CRLF, and column names that are people's own.
MAILS = "".join(
    f'{number},"no. {number * 7919} dear shop{number},\r\nmy {("parcel", "invoice")[number % 2]} is ""odd"" {number}",'
    + ("Delivery\r\n", '"Bill, and more"\r\n')[number % 2]
    for number in range(120)
)
# Ctrl-C while the first step is told: the signal comes at the same place each time.
INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from peftkit import cli, screen
def step_detail(line):
    signal.raise_signal(signal.SIGINT)
screen.step_detail = step_detail
sys.argv = ["peftkit", *sys.argv[1:]]
cli.main()
"""


class Left(NamedTuple):
    """What a command left: its exit code and what it wrote."""

    code: int
    stdout: str
    stderr: str


def outside(*words: str, cwd: Path, start: tuple[str, ...] = ("-m", "peftkit")) -> Left:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, *start, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # more threads only wait for each other in a model this small
    )
    return Left(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def words(tiny_model: Path, reviews: Path) -> list[str]:
    return [
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "data.test_fraction=0.2",
        "data.validation_fraction=0.1",
        "train.max_steps=2",
        "evaluate.max_rows=12",
        "evaluate.bootstrap_samples=50",
    ]


@pytest.fixture(scope="session")
def json_run(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Left]:
    """The shared run, and what `run --json` wrote to the screen."""
    folder = tmp_path_factory.mktemp("commands")
    return folder / "run", outside("run", "sentiment", *words, "--out", "run", "--json", cwd=folder)


@pytest.fixture
def run_folder(json_run: tuple[Path, Left], tmp_path: Path) -> Path:
    """A copy of the shared run, at a place of its own."""
    return Path(shutil.copytree(json_run[0], tmp_path / "copied"))


@pytest.fixture
def peftkit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Left]:
    """The command line in this process, with what reaches the two streams of the process."""
    from peftkit.cli import main

    def call(*words: str) -> Left:
        monkeypatch.setattr(sys, "argv", ["peftkit", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Left(left.value.code or 0, *capfd.readouterr())

    return call


def test_version(peftkit) -> None:
    assert peftkit("--version") == (0, f"peftkit {version('peftkit')}\n", "")


@pytest.mark.parametrize("group", [(), ("recipes",), ("assets",), ("bench",)])
def test_help_says_what_each_command_does_without_cutting_it_short(
    peftkit, monkeypatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = peftkit(*group, "--help")
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) > 0
    for line in listed:
        assert line.endswith("."), line
        assert not line.endswith("..."), line
        assert len(line) <= 80


def test_every_group_of_commands_is_among_those_of_the_test_above() -> None:
    import typer

    from peftkit.cli import app

    commands = typer.main.get_command(app).commands
    assert {name for name, one in commands.items() if hasattr(one, "commands")} == {"recipes", "assets", "bench"}


def test_help_of_chat_names_the_usual_length(peftkit) -> None:
    from peftkit.serve.asking import CHAT_TOKENS

    said = " ".join(peftkit("chat", "--help").stdout.split())
    assert f"Longest answer, in tokens; {CHAT_TOKENS}, or the recipe's." in said


def test_recipes(peftkit) -> None:
    done = peftkit("recipes")
    assert done.code == 0
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("sentiment "))
    assert line.rstrip().endswith(" ".join(load_recipe("sentiment").presets))


def test_recipes_as_json(peftkit) -> None:
    listed = json.loads(peftkit("recipes", "--json").stdout)
    assert listed["broken"] == {}
    (found,) = (one for one in listed["recipes"] if one["name"] == "sentiment")
    assert found["presets"] == list(load_recipe("sentiment").presets)


def test_recipes_show_lists_every_key_with_its_value_and_help(peftkit) -> None:
    from peftkit.resolve import known_keys

    done = peftkit("recipes", "show", "sentiment", "--preset", "12gb")
    assert done.code == 0
    assert "review, content, snippet" in done.stdout
    for key in known_keys():
        assert f"  {key.split('.')[1]}: " in done.stdout
    assert '  path: "Qwen/Qwen3-4B-Instruct-2507"  # embedded model, local folder, .gguf file or hub id' in done.stdout
    assert "  r: 16  # rank of the update" in done.stdout


def test_recipes_copy_writes_what_show_shows_and_never_over_a_file(peftkit, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    assert peftkit("recipes", "copy", "sentiment", str(file)).code == 0
    text = file.read_text(encoding="utf-8")
    assert text in peftkit("recipes", "show", "sentiment").stdout
    file.write_text("mine", encoding="utf-8")
    done = peftkit("recipes", "copy", "sentiment", str(file))
    assert done.code == 6
    assert "is not written over" in done.stderr
    assert file.read_text(encoding="utf-8") == "mine"
    assert peftkit("recipes", "copy", "sentiment", str(tmp_path / "my.txt")).code == 2
    assert list(tmp_path.iterdir()) == [file]


def test_assets(peftkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    done = peftkit("assets")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "92.9 MB  Apache-2.0" in rows["smollm2-135m-instruct"]
    assert rows["vader-ratings"].rstrip().endswith("no")


def test_assets_as_json(peftkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    table = {row["name"]: row for row in json.loads(peftkit("assets", "--json").stdout)}
    assert table["vader-ratings"]["licence"] == "MIT"
    assert table["vader-ratings"]["size"] == 2_466_783
    assert table["vader-ratings"]["cached"] is False
    assert Path(table["smollm2-135m-instruct"]["path"]).is_relative_to(tmp_path)


def test_a_mistake_is_one_sentence_and_debug_shows_where(tmp_path: Path) -> None:
    done = outside("recipes", "show", "sentimant", cwd=tmp_path)
    assert done.code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no recipe 'sentimant'; did you mean 'sentiment'?")
    assert "Traceback" not in done.stderr
    done = outside("--debug", "recipes", "show", "sentimant", cwd=tmp_path)
    assert done.code != 0
    assert "Traceback" in done.stderr
    assert "ConfigError: there is no recipe 'sentimant'" in done.stderr


@pytest.mark.parametrize("setting", ["train.optim=adamw_torh", "adapter.extra.rnk=1"])
def test_a_mistake_that_another_library_knows_is_one_sentence_too(setting: str, tmp_path: Path) -> None:
    done = outside("run", "sentiment", setting, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {setting.split('=')[0]}")


def test_check_as_json(peftkit, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = peftkit("check", "sentiment", *words, "--json")
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["read"] == report["kept"] == 240
    assert report["rejected"] == report["overlap"] == report["fully_masked"] == 0
    assert sum(report["available"].values()) == 240
    assert report["splits"]["test"]["rows"] == 12
    assert report["end_token_trained"] is True
    assert list(tmp_path.iterdir()) == []


def test_check_shows_what_is_trained(peftkit, words: list[str]) -> None:
    done = peftkit("check", "sentiment", *words)
    assert done.code == 0
    assert "240 rows read = 240 kept + 0 truncated + 0 rejected" in done.stdout
    assert "only 12 held-out rows will be judged" in done.stdout
    assert "[[positive<|im_end|>" in done.stdout or "[[negative<|im_end|>" in done.stdout


def test_run_as_json_writes_one_value_and_nothing_else(json_run: tuple[Path, Left]) -> None:
    folder, done = json_run
    assert (done.code, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert (folder.parent / printed.pop("folder")) == folder
    assert printed == json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert printed["train"]["steps"] == 2


@pytest.mark.parametrize(
    ("recipe", "header", "settings", "labels"),
    [
        (
            "classification",
            'No.,"What they wrote, whole",About what?',
            ["data.columns.text=What they wrote, whole", "data.columns.label=About what?"],
            ["Bill, and more", "Delivery"],
        ),
        (
            "sentiment",
            "no.,CONTENT,Senti-Ment",
            ["data.label_names.delivery=positive", 'data.label_names={"Bill, and more": "negative"}'],
            ["negative", "positive"],
        ),
    ],
)
def test_a_csv_of_ones_own_trains_by_one_line(
    peftkit, tiny_model: Path, tmp_path: Path, recipe: str, header: str, settings: list[str], labels: list[str]
) -> None:
    file = tmp_path / "mails.csv"
    file.write_bytes(b"\xef\xbb\xbf" + f"{header}\r\n{MAILS}".encode())
    out = tmp_path / "run"
    few = ["data.test_fraction=0.3", "train.max_steps=1", "evaluate.max_rows=8", "evaluate.bootstrap_samples=5"]
    done = peftkit(
        "run", recipe, f"model.path={tiny_model}", f"data.path={file}", *settings, *few, "--out", str(out), "--quiet"
    )
    assert done.code == 0, done.stderr
    report = json.loads((out / "data.json").read_text(encoding="utf-8"))
    assert (report["read"], report["kept"], report["rejected"]) == (120, 120, 0)
    assert report["source"]["sources"][0]["name"] == "mails.csv"
    assert list(report["splits"]["train"]["labels"]) == labels
    assert min(report["splits"]["train"]["labels"].values()) > 20
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["train"]["steps"] == 1
    assert set(summary["metrics"]) == set(summary["after"]) == set(summary["before"])
    predicted = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(predicted) == 8
    for row in predicted:
        assert row["expected"] in labels
        assert re.fullmatch(r'no\. \d+ dear shop\d+,\r\nmy (parcel|invoice) is "odd" \d+', row["columns"]["text"])
    (answer,) = json.loads(peftkit("predict", str(out), "where is my parcel?", "--json").stdout)
    assert sorted(answer["scores"]) == labels


def test_the_end_says_the_memory_that_was_forecast(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    summary["memory"] |= {"peak_rss": 1_230_000_000, "peak_cuda_allocated": 0}
    summary["forecast"] |= {"memory": 1_200_000_000, "allocated": 340_000_000}
    screen.show_result(UI(), summary)
    assert "peak memory 1.23 GB (forecast 1.20 GB); adapter" in capfd.readouterr().out
    summary["memory"]["peak_cuda_allocated"] = 350_000_000
    screen.show_result(UI(), summary)
    assert "peak memory 1.23 GB, 350.0 MB on the GPU (forecast 340.0 MB); adapter" in capfd.readouterr().out
    summary["forecast"] = None
    screen.show_result(UI(), summary)
    assert "350.0 MB on the GPU; adapter" in capfd.readouterr().out


def test_a_quiet_run_writes_nothing_to_the_screen(peftkit, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = peftkit("run", "sentiment", *words, "train.max_steps=1", "evaluate.max_rows=2", "--out", str(out), "--quiet")
    assert done == (0, "", "")
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["train"]["steps"] == 1


def test_a_run_is_never_written_over(peftkit, words: list[str], run_folder: Path) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    done = peftkit("run", "sentiment", *words, "--out", str(run_folder))
    assert done.code == 6
    assert "never written over" in " ".join(done.stderr.split())
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


def test_predict_answers_line_by_line(peftkit, run_folder: Path) -> None:
    done = peftkit("predict", str(run_folder / "adapter"), *TEXTS, "--json")
    assert (done.code, done.stderr) == (0, "")
    answers = json.loads(done.stdout)
    assert [one["text"] for one in answers] == TEXTS
    for one in answers:
        assert set(one) == {"text", "answer", "label", "scores"}
        assert set(one["scores"]) == {"negative", "positive"}
        assert all(score < 0 for score in one["scores"].values())
        assert one["label"] in ("negative", "positive", None)
    plain = peftkit("predict", str(run_folder), *TEXTS)
    assert plain == (0, "".join(f"{one['answer']}\n" for one in answers), "")


def test_predict_reads_lines_from_standard_input(peftkit, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a lovely film\n\na dull book\n"))
    done = peftkit("predict", str(run_folder), "-", "--json")
    assert [one["text"] for one in json.loads(done.stdout)] == TEXTS
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    done = peftkit("predict", str(run_folder), "-")
    assert (done.code, done.stdout) == (3, "")
    assert "no text" in done.stderr


def test_eval_finds_what_the_run_found_and_keeps_each_result(peftkit, run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    done = peftkit("eval", str(run_folder), "--json")
    assert (done.code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    for which in ("before", "after", "difference", "mcnemar"):
        assert result[which] == summary[which]
    (first,) = (run_folder / "evaluations").iterdir()
    content = first.read_bytes()
    assert json.loads(content) == result
    done = peftkit("eval", str(run_folder), "--split", "validation", "--max-rows", "5")
    assert done.code == 0
    files = sorted((run_folder / "evaluations").iterdir())
    assert len(files) == 2
    assert first.read_bytes() == content
    (second,) = set(files) - {first}
    other = json.loads(second.read_text(encoding="utf-8"))
    assert (other["split"], other["after"]["accuracy"]["n"]) == ("validation", 5)
    assert json.loads((run_folder / "summary.json").read_text(encoding="utf-8")) == summary


def test_eval_of_a_folder_without_a_run(peftkit, tmp_path: Path) -> None:
    done = peftkit("eval", str(tmp_path))
    assert (done.code, done.stdout) == (6, "")
    assert "holds no run" in " ".join(done.stderr.split())


def test_ctrl_c_ends_a_run_without_a_traceback(words: list[str], tmp_path: Path) -> None:
    done = outside(
        "run", "sentiment", *words, "evaluate.max_rows=1", "--out", "run", cwd=tmp_path, start=("-c", INTERRUPTED)
    )
    assert done.code == 130
    assert "4/6 Training" in done.stdout
    assert "5/6" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "interrupted" in done.stderr
    assert not (tmp_path / "run/summary.json").exists()


def test_from_python_as_in_a_notebook(
    tiny_model: Path, reviews: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from peftkit import PeftkitError, check, evaluate_run, load_recipe, predict, run
    from peftkit.errors import ConfigError

    assert "tiny" in load_recipe("sentiment").presets
    values = {
        "model": {"path": str(tiny_model), "quantization": "none"},
        "data": {"path": str(reviews), "test_fraction": 0.2, "train_rows": 50},
        "adapter": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        "train": {"max_steps": 2, "learning_rate": 1e-3},
        "evaluate": {"max_rows": 6, "bootstrap_samples": 20},
    }
    assert check("sentiment", values)["splits"]["train"]["rows"] == 50
    result = run("sentiment", values, out=tmp_path / "run")
    assert result.folder == tmp_path / "run"
    assert result.adapter == tmp_path / "run" / "adapter"
    assert result.summary["quantization"] == "none"
    assert result.summary["adapter"]["r"] == 4
    config = json.loads((result.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert set(config["target_modules"]) == {"q_proj", "v_proj"}
    answers = predict(result.adapter, TEXTS)
    assert [one["text"] for one in answers] == TEXTS
    again = evaluate_run(result.folder)
    assert again["after"]["accuracy"] == result.summary["after"]["accuracy"]
    fewer = evaluate_run(result.folder, words=["evaluate.max_rows=4", "evaluate.batch_size=2"])
    assert fewer["after"]["accuracy"]["n"] == 4
    with pytest.raises(ConfigError, match=r"data\.path: an evaluation changes keys of evaluate\.\* alone"):
        evaluate_run(result.folder, words=["data.path=other.jsonl"])
    with pytest.raises(PeftkitError, match=r"unknown key 'train.learning_rat' \(Python\); did you mean"):
        run("sentiment", {"train": {"learning_rat": 1}}, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert capfd.readouterr().out == ""
