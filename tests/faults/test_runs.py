"""A run that is killed or stopped anywhere goes on by one command, and ends as one that nothing happened to."""

import json
import os
import shutil
import signal
import sys

import pytest

from peftkit import pipeline
from peftkit.checkpoint.lock import alone_with
from peftkit.errors import CheckpointError, ConfigError, OutputError
from peftkit.pipeline import resume, run
from peftkit.stopping import TIME_IS_UP, Stop, Stopped, seconds_of

from .children import adapter_of, assert_same, at_step, in_a_child, kill
from .world import stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")


def quick_first(quick, slow):
    """Cases of the quick tests, and those that only the long proof tries."""
    return [*quick, *(pytest.param(one, marks=pytest.mark.slow) for one in slow if one not in quick)]


def test_the_base_model_is_asked_once(alone, tmp_path):
    words, wanted = alone
    out = tmp_path / "run"
    assert in_a_child(["run", "sentiment", *words, "--out", out], lambda: at_step(5, kill)) == -signal.SIGKILL

    def refuse_base():
        asked = []
        original = pipeline.judge_rows

        def counting(model, *rest):
            asked.append(1)
            if len(asked) > 1:
                os._exit(99)
            return original(model, *rest)

        pipeline.judge_rows = counting

    assert in_a_child(["resume", out], refuse_base) == 0
    assert_same(out, wanted)


def test_a_second_signal_ends_at_once_and_the_older_checkpoint_is_whole(alone, tmp_path):
    words, wanted = alone
    out = tmp_path / "run"

    def twice():
        kill(signal.SIGTERM)
        kill(signal.SIGTERM)

    argv = ["run", "sentiment", *words, "--out", out]
    assert in_a_child(argv, lambda: at_step(5, twice)) == -signal.SIGTERM
    assert in_a_child(["resume", out]) == 0
    assert json.loads((out / "summary.json").read_text())["went_on_after_step"] == 3
    assert_same(out, wanted)


def test_a_signal_before_training_leaves_nothing_or_what_can_go_on(alone, tmp_path):
    words, wanted = alone
    for name, left in (("prepare", False), ("judge_rows", True)):
        out = tmp_path / name

        def stop_in(name=name):
            setattr(pipeline, name, lambda *_, **__: kill(signal.SIGTERM))

        assert in_a_child(["run", "sentiment", *words, "--out", out], stop_in) == 143
        assert out.exists() is left
        if left:
            assert in_a_child(["resume", out]) == 0
            assert_same(out, wanted)


def test_handlers_come_back_and_ignored_signals_stay_ignored():
    def mine(number, frame):
        raise AssertionError("this one is not asked while a run listens")

    before = signal.signal(signal.SIGTERM, mine)
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(Stopped) as caught:
                kill(signal.SIGTERM)
        assert (caught.value.reason, caught.value.exit_code) == ("SIGTERM", 143)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, ignored)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_while_an_object_goes_is_not_lost():
    class Goes:
        def __del__(self):
            kill(signal.SIGTERM)

    stop = Stop()
    with stop.listening():
        stop.require_none()
        Goes()
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.require_none()


def test_an_error_that_an_interrupted_library_raises_is_no_error_of_the_run():
    def interrupted():
        try:
            kill(signal.SIGTERM)
        finally:
            raise ValueError("a file that was closed")

    def told_to_save():
        with stop.awaited():
            kill(signal.SIGTERM)
            raise OutputError("it cannot be saved")

    for act, outcome in ((interrupted, Stopped), (told_to_save, OutputError)):
        stop = Stop()
        with stop.listening(), pytest.raises(outcome), stop.before_errors():
            act()
    with pytest.raises(ValueError, match="its own"), Stop().before_errors():
        raise ValueError("its own")


def test_a_limit_of_time_saves_and_stops(alone, tmp_path):
    words, wanted = alone
    out = tmp_path / "run"

    def hurry():
        at_step(7, lambda: setattr(Stop, "look_at_clock", late))

    def late(self, needed):
        self._limit = 1e-9
        return original(self, needed)

    original = Stop.look_at_clock
    argv = ["run", "sentiment", *words, "--out", out, "--time-limit", "3h"]
    assert in_a_child(argv, hurry) == TIME_IS_UP == 75
    assert (out / "checkpoints" / "checkpoint-8").is_dir()
    assert in_a_child(["resume", out, "--time-limit", "1h30m"]) == 0
    assert_same(out, wanted)


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h", 10800), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("45", 45), (None, None)]
)
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "3d", "-1h", "1.5h", "30m2h", "soon"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="is no time; write for example 3h"):
        seconds_of(text)


@pytest.fixture
def copied(tmp_path):
    """A run that was stopped after its fifth step."""
    return shutil.copytree(stopped(), tmp_path / "copied")


IMMUTABLE = {
    "train.learning_rate": "1e-3",
    "train.max_steps": "20",
    "train.per_device_train_batch_size": "2",
    "train.gradient_accumulation_steps": "2",
    "train.max_length": "128",
    "train.label_smoothing": "0.1",
    "train.neftune_noise_alpha": "5",
    "train.optim": "lion",
    "train.optim_args.beta1": "0.8",
    "train.lr_scheduler_type": "cosine",
    "train.warmup_fraction": "0.2",
    "train.weight_decay": "0.1",
    "train.max_grad_norm": "0.5",
    "train.group_by_length": "false",
    "train.seed": "1",
    "adapter.r": "8",
    "adapter.lora_dropout": "0",
    "adapter.target_modules": "q_proj",
    "model.quantization": "nf4",
    "data.train_rows": "50",
    "task.system": "hello",
}


@pytest.mark.parametrize("key", quick_first(["train.seed", "adapter.r"], list(IMMUTABLE)[:-1]))
def test_what_decides_the_training_cannot_change(key, copied):
    before = {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match=rf"different now: .*{key}[:.]") as caught:
        resume(copied, words=[f"{key}={IMMUTABLE[key]}"])
    assert caught.value.exit_code == 13
    assert {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()} == before


def test_what_does_not_decide_it_can_change(copied, alone):
    words = ["train.logging_steps=2", "train.save_steps=0", "train.save_total_limit=3", "evaluate.max_rows=5"]
    resume(copied, words=words)
    assert adapter_of(copied)["adapter_model.safetensors"] == adapter_of(alone[1])["adapter_model.safetensors"]
    assert len((copied / "predictions.jsonl").read_text().splitlines()) == 5


def test_other_rows_or_weights_are_seen_and_another_place_is_not(alone, copied, tmp_path, reviews, tiny_model):
    rows = tmp_path / "other.jsonl"
    rows.write_text(reviews.read_text().replace("film", "opera"))
    with pytest.raises(CheckpointError, match="training rows are not the same"):
        resume(copied, words=[f"data.path={rows}"])
    import torch
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="base weights are not the same"):
        resume(copied, words=[f"model.path={model}"])
    assert torch.equal(tensors[name], load_file(model / "model.safetensors")[name])
    resume(copied, words=[f"model.path={shutil.copytree(tiny_model, tmp_path / 'same')}"])
    assert adapter_of(copied)["adapter_model.safetensors"] == adapter_of(alone[1])["adapter_model.safetensors"]


def test_a_folder_that_holds_a_run_asks_for_resume(copied, alone):
    with pytest.raises(OutputError, match="holds a run and is never written over; go on with it by --resume"):
        run("sentiment", words=alone[0], out=copied)
    with pytest.raises(ConfigError, match="--resume goes on with a run that is there; name its folder with --out"):
        run("sentiment", words=alone[0], resume=True)
    assert resume(alone[1]).summary == json.loads((alone[1] / "summary.json").read_text())  # it is finished


def test_another_process_is_refused_and_a_dead_one_s_lock_is_taken_over(copied, alone):
    with pytest.raises(OutputError, match="this process works on"), alone_with(copied / ".lock"):
        resume(copied)
    assert not (copied / ".lock").exists()

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with alone_with(copied / ".lock"):
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    try:
        with pytest.raises(OutputError, match=rf"another process works on '.*' \(process {child} on .*, since 20"):
            resume(copied)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert json.loads((copied / ".lock").read_text())["pid"] == child
    resume(copied)
    assert_same(copied, alone[1])
