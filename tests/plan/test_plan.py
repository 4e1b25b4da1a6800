"""`peftkit plan`: the verdict and its exit code, what is advised, the largest value that fits, and what is written."""

import gc
import json
import os
import signal
import sys

import pytest
import torch

from peftkit import machine
from peftkit.errors import ConfigError, DoesNotFitError, NotModelledError, OutputError
from peftkit.plan import before, calibration, plan
from peftkit.plan.advice import Adviser
from peftkit.plan.apply import chosen_config, write_chosen
from peftkit.plan.cards import Card, find_card
from peftkit.plan.changes import changed
from peftkit.plan.forks import in_forks
from peftkit.plan.plan import plan_run
from peftkit.plan.screen import misfit
from peftkit.plan.shapes import known_settings
from peftkit.plan.workload import find_workload
from peftkit.resolve import resolve

machine.quiet_libraries()
MIB = 1 << 20


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Folder of a model's configuration alone: four narrow layers with a usual vocabulary."""
    settings = known_settings("meta-llama/Llama-3.2-1B")
    narrow = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2}
    for name, value in {**narrow, "head_dim": 32, "num_hidden_layers": 4, "vocab_size": 32000}.items():
        setattr(settings, name, value)
    folder = tmp_path_factory.mktemp("narrow")
    settings.save_pretrained(folder)
    return folder


@pytest.fixture
def resolved(narrow):
    """Resolve a run on the narrow model."""

    def call(*words, recipe="instruct"):
        own = [f"model.path={narrow}", "train.per_device_train_batch_size=4", "train.max_length=512"]
        return resolve(recipe, words=[*own, "adapter.r=8", "evaluate.batch_size=2", *words])

    return call


@pytest.fixture
def cards(monkeypatch):
    """Let `--gpu 500` be a card of 500 MiB with nothing of its own on it."""

    def find(word):
        return (
            Card(f"{word} MiB", int(word) * MIB, 100, 50, 1e12, context=0, workspace=0)
            if word.isdigit()
            else find_card(word)
        )

    monkeypatch.setattr(plan, "find_card", find)


def test_components_add_up_and_json_holds_everything(resolved) -> None:
    found = plan_run(resolved(), ["24GB", "T4"])
    assert found.fits
    first, old = found.forecasts
    assert sum(first.memory.components.values()) == first.memory.training
    assert first.memory.total == max(first.memory.for_training, first.memory.for_evaluation) + first.memory.context
    held = {name for name in first.memory.components if "weights" in name}
    assert held == {"base weights, 4-bit", "base weights, scales", "base weights, bfloat16"}
    assert "base weights, float16" in old.memory.components  # a T4 has no bfloat16
    assert first.step.low < first.step.middle < first.step.high
    values = json.loads(json.dumps(found.as_json()))
    assert values["fits"] is True
    assert [one["card"] for one in values["forecasts"]] == ["24GB", "T4"]
    assert values["forecasts"][0]["memory"]["disk"]["merged model"] == 2 * first.frozen
    assert values["batch"] == {"rows": 4, "length": 512, "trained": 512, "padded": False}


def test_what_does_not_fit_is_advised_and_the_advice_holds(resolved, cards, tmp_path) -> None:
    found = plan_run(resolved("train.per_device_train_batch_size=16", "evaluate.max_rows=0"), ["300"])
    assert not found.fits
    best = found.advice[0]
    assert best.fits
    assert best.memory_gained > 0
    write_chosen(found, tmp_path / "fitting.yaml")
    again = plan_run(resolve(str(tmp_path / "fitting.yaml")), ["300"])
    assert again.fits
    assert again.forecasts[0].memory.total == pytest.approx(best.total, rel=0.01)
    with pytest.raises(OutputError, match="exists and is not written over"):
        write_chosen(found, tmp_path / "fitting.yaml")
    with pytest.raises(ConfigError, match=r"must end in \.yaml"):
        write_chosen(found, tmp_path / "fitting.json")


def test_several_changes_are_advised_where_one_is_not_enough(resolved, cards, tmp_path) -> None:
    words = ["train.per_device_train_batch_size=16", "train.max_length=1024", "evaluate.batch_size=8"]
    found = plan_run(resolved(*words), ["400"])
    best = found.advice[0]
    assert best.fits
    assert len(best.values) > 2
    hopeless = plan_run(resolved("evaluate.max_rows=0", "train.per_device_train_batch_size=2"), ["10"])
    assert not any(one.fits for one in hopeless.advice)
    with pytest.raises(DoesNotFitError, match="no change makes this run fit"):
        write_chosen(hopeless, tmp_path / "none.yaml")


def test_room_is_used_for_speed(resolved) -> None:
    found = plan_run(resolved("train.gradient_checkpointing=true", "evaluate.max_rows=0"), ["24GB"])
    plain = next(one for one in found.advice if one.values == {"train.gradient_checkpointing": False})
    assert plain.time_gained > 0.1
    assert plain.memory_gained < 0
    assert found.advice == sorted(found.advice, key=lambda one: -one.time_gained)


def test_changes_that_are_tried_side_by_side_are_the_same(resolved, monkeypatch) -> None:
    found = plan_run(resolved("evaluate.max_rows=0", "train.per_device_train_batch_size=2"), ["24GB"])
    monkeypatch.setattr(machine, "cores", lambda: 3)
    both = [Adviser(found.subject, found.forecasts[0], forks=forks).advise() for forks in (False, True)]
    assert both[0] == both[1]
    assert len(both[0]) > 1


def test_work_in_forks_keeps_its_order_and_its_errors(monkeypatch) -> None:
    parent = os.getpid()
    monkeypatch.setattr(machine, "cores", lambda: 3)
    assert in_forks(lambda number: (number, os.getpid() == parent), 5) == [(number, False) for number in range(5)]
    with pytest.raises(ZeroDivisionError):
        in_forks(lambda number: 1 // (number - 2), 5)

    def killed_in_a_fork(number: int) -> tuple[int, bool]:
        if os.getpid() != parent and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid() == parent

    assert in_forks(killed_in_a_fork, 3) == [(0, True), (1, True), (2, True)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert in_forks(lambda number: os.getpid() == parent, 2) == [True, True]


@pytest.mark.parametrize("name", ["max_length", "batch", "rank"])
def test_the_largest_value_fits_and_the_next_does_not(resolved, cards, name) -> None:
    found = plan_run(resolved("train.gradient_checkpointing=true", "evaluate.max_rows=0"), ["400"], name)
    largest, subject, now = found.largest, found.subject, found.forecasts[0]
    assert 0 < largest.total <= now.card.memory
    step, most = {"max_length": (64, 1 << 17), "batch": (1, 1 << 12), "rank": (8, 1 << 10)}[name]
    assert subject.config.train.per_device_train_batch_size == 4
    if largest.value + step <= most:
        adviser = Adviser(subject, now)
        beyond = adviser.with_values({largest.key: largest.value + step})
        if name == "max_length":
            load = beyond.load
            longer = {"longest": largest.value + step, "trained": largest.value + step, "prompt": largest.value + step}
            beyond = plan.Subject(beyond.settings, beyond.config, beyond.family, type(load)(**{**vars(load), **longer}))
        assert adviser.total_of(beyond) > now.card.memory
    assert changed(subject.config, {largest.key: largest.value})


def test_the_largest_model_that_fits(resolved, monkeypatch) -> None:
    from peftkit.plan import search

    models = ("HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.3-70B", "minilm-l6")
    monkeypatch.setattr(search, "known_models", lambda: {name: place for place, name in enumerate(models)})
    words = ["train.gradient_checkpointing=true", "train.per_device_train_batch_size=1", "evaluate.max_rows=0"]
    found = plan_run(resolved(*words), ["12GB"], "model")
    assert (found.largest.key, found.largest.value) == ("model.path", "meta-llama/Llama-3.1-8B")
    with pytest.raises(ConfigError, match="--max 'depth' is not known"):
        plan_run(resolved(), ["8GB"], "depth")


def test_rows_that_are_here_are_counted(small) -> None:
    config, load = find_workload(resolve("sentiment", words=small), "causal")
    assert load.source == "counted in the rows"
    assert load.longest <= 256
    assert load.mean <= load.longest
    assert config.task.labels == ("negative", "positive")
    without_tokenizer = [*small, "model.path=Qwen/Qwen3-0.6B"]
    _, estimated = find_workload(resolve("sentiment", words=without_tokenizer), "causal")
    assert estimated.source == "estimated from the rows' characters"
    assert estimated.rows == pytest.approx(load.rows, rel=0.2)
    _, nothing = find_workload(resolve("sentiment", words=[*without_tokenizer, "data.path=-"]), "causal")
    assert nothing.source == "assumed"
    assert nothing.rows is None


def test_weights_of_a_kind_without_model_are_named(tmp_path) -> None:
    settings = known_settings("Qwen/Qwen3-0.6B")
    settings.quantization_config = {"quant_method": "gptq", "bits": 4}
    settings.save_pretrained(tmp_path)
    with pytest.raises(NotModelledError, match="stored as gptq"):
        plan_run(resolve("sentiment", words=[f"model.path={tmp_path}"]), ["24GB"])


def test_a_run_that_cannot_be_forecast_says_that_it_starts_and_does(small, tmp_path, monkeypatch, capsys) -> None:
    from peftkit import pipeline
    from peftkit.model import load
    from peftkit.plan import forecast
    from peftkit.ui import UI

    class WeightsAreReadError(Exception):
        pass

    def outline(*_):
        raise ValueError("a tensor without values")

    def load_model(*_):
        raise WeightsAreReadError

    monkeypatch.setattr(forecast, "outline", outline)
    monkeypatch.setattr(load, "load_model", load_model)
    with pytest.raises(WeightsAreReadError):
        pipeline.run("sentiment", words=small, out=tmp_path / "run", ui=UI())
    said = " ".join("".join(capsys.readouterr()).split())
    assert "no forecast: the plan cannot model" in said
    assert "ValueError, a tensor without values; a run starts without a forecast" in said
    assert "--force" not in said


def test_the_command_leaves_with_a_code_of_its_own(resolved, narrow, monkeypatch, capsys) -> None:
    from peftkit.cli import main

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["peftkit", "plan", "instruct", f"model.path={narrow}", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr()

    code, said = call("--gpu", "24GB", "--json")
    assert code == 0
    assert json.loads(said.out)["fits"] is True
    code, said = call("--gpu", "0.1GB")
    assert code == DoesNotFitError.exit_code
    assert "0.1GB: does not fit, it needs" in said.err
    assert "saved activations" in said.out
    code, said = call("--gpu", "rtx 9999")
    assert code == ConfigError.exit_code


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--max", "nonsense"], 2, "--max 'nonsense' is not known; it can be max_length, batch, rank or model"),
        (["adapter.method=ia3", "--max", "rank"], 2, "--max rank: adapter.method=ia3 has no rank"),
        (["--apply", "out.txt"], 2, "--apply 'out.txt' must end in .yaml"),
        (["--apply", "there.yaml"], 6, "'there.yaml' exists and is not written over; give another name"),
        (["--apply", "no/out.yaml"], 6, "there is no folder 'no'; make it, or name another"),
        (["--gpu", "24GB", "--gpu", "0GB"], 2, "--gpu '0GB': a card's size is more than 0 and at most 512 GB"),
        (["model.path=/no/such"], 4, "'/no/such' is no model: give a folder with config.json"),
        (["--preset", "huge"], 2, "has no preset 'huge'; it has: tiny"),
        (["--config", "no.yaml"], 2, "there is no configuration file 'no.yaml'"),
        (["train.max_lenth=64"], 2, "unknown key 'train.max_lenth' (command line); did you mean 'train.max_length'?"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_traced(narrow, tmp_path, monkeypatch, capsys, words, code, said):
    from peftkit.cli import main

    def forecasts_of(*_):
        raise AssertionError("traced")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("mine")
    monkeypatch.setattr(plan, "forecasts_of", forecasts_of)
    monkeypatch.setattr(sys, "argv", ["peftkit", "plan", "instruct", f"model.path={narrow}", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_what_is_said_of_a_run_that_does_not_fit_can_be_done(resolved, cards) -> None:
    words = ("evaluate.max_rows=0", "train.per_device_train_batch_size=16")
    helped, other = plan_run(resolved(*words), ["300"]), plan_run(resolved(*words), ["24GB", "300"])
    hopeless = plan_run(resolved("evaluate.max_rows=0", "train.per_device_train_batch_size=2"), ["10"])
    assert misfit(helped).endswith("too much; `--apply FILE.yaml` writes what does")
    assert misfit(other).endswith("too much; `--gpu '300 MiB'` alone says what to change")
    assert misfit(hopeless).endswith(
        "and no change to its settings makes it fit; take a larger card or a smaller model"
    )
    assert misfit(plan_run(resolved(*words), ["24GB"])) is None
    none, some = (plan_run(resolved(*words), [size], "batch") for size in ("10", "300"))
    assert misfit(none).startswith("10 MiB: no value of train.per_device_train_batch_size fits, the smallest needs ")
    assert misfit(some) is None
    with pytest.raises(DoesNotFitError, match=r"no value of train\.per_device_train_batch_size fits"):
        chosen_config(none)


def test_rows_that_cannot_be_read_are_named_and_the_worst_is_assumed(small) -> None:
    words = [word for word in small if not word.startswith("data.path")]
    _, load = find_workload(resolve("sentiment", words=[*words, "data.path=no-such.csv"]), "causal")
    assert load.source.startswith("assumed, as the rows cannot be read: ")
    assert "no-such.csv" in load.source
    assert load.longest == 256


def test_a_run_keeps_its_forecast_beside_what_it_took(small, tmp_path) -> None:
    from peftkit import pipeline

    done = pipeline.run("sentiment", words=small, out=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "forecast.json").read_text())
    assert kept["fits"] is True
    said = done.summary["forecast"]
    assert said["memory"] == kept["memory"]["total"]
    assert said["measured_seconds_per_step"] > 0
    time = kept["time"]["seconds_per_step"]
    assert said["seconds_per_step_range"] == [time["low"], time["high"]]
    assert kept["time"]["steps"] == 4
    assert "forecast at its start" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_goes_on_keeps_the_forecast_of_its_start(small, tmp_path, monkeypatch) -> None:
    from peftkit import pipeline
    from peftkit.stopping import Stopped

    def measured():
        return calibration._file().read_text() if calibration._file().is_file() else ""

    monkeypatch.setattr(calibration, "_file", lambda: tmp_path / "steps.jsonl")
    words = [*small, "train.save_steps=1"]
    with pytest.raises(Stopped):
        pipeline.run("sentiment", words=words, out=tmp_path / "run", time_limit=1e-3)
    file = tmp_path / "run" / "forecast.json"
    begun = json.loads(file.read_text())
    begun["memory"]["total"] = 12345  # as another machine may have had it
    file.write_text(json.dumps(begun))
    done = pipeline.resume(tmp_path / "run")
    assert json.loads(file.read_text()) == begun
    assert done.summary["forecast"]["memory"] == 12345
    assert "forecast at its start" in (tmp_path / "run" / "report.html").read_text()
    assert measured() == ""


def test_a_run_that_cannot_fit_stops_before_its_weights_are_read(small, tmp_path, monkeypatch) -> None:
    from peftkit import pipeline
    from peftkit.model import load

    def never(*args):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(load, "load_model", never)
    card = Card("a small card", 100 * MIB, 10, 5, 1e11)
    monkeypatch.setattr(before, "this_machine", lambda: card)
    with pytest.raises(DoesNotFitError, match=r"a small card: does not fit.*--force"):
        pipeline.run("sentiment", words=small, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(AssertionError, match="weights were read"):
        pipeline.run("sentiment", words=small, out=tmp_path / "run", force=True)


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_as_it_was_after_work_without_it(before):
    was = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with machine.without_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()
