"""Memory that runs out in training: seen before the first step, and survived from the last whole one."""

import json
import os

import pytest
import torch
from transformers import TrainerCallback

from peftkit.adapter.attach import WEIGHTS, save_adapter
from peftkit.errors import MemoryGoneError, OutputError
from peftkit.memory.host import HostWatch
from peftkit.memory.retries import Retries, smaller_batch
from peftkit.train.callbacks import MetricsCallback
from peftkit.train.surviving import look_at_worst_batch, train_through
from peftkit.train.worst_batch import worst_rows

from ..faults.training import PRECISIONS, ROWS, Ledger, settings
from ..memory.errors import gone
from .families import Run, examples


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Fails:
    """Makes a training run out of memory at a step while a batch has more rows than fit.

    Attributes:
        times: How often it did.
    """

    def __init__(self, monkeypatch, where, step, fitting, error=gone):
        self.where, self.step, self.fitting, self.error = where, step, fitting, error
        self.times = 0
        if where == "optimizer step":
            original = torch.optim.AdamW.step

            def update(optimizer, *args, **kwargs):
                if self.is_now():
                    with torch.no_grad():  # half of the weights are changed already
                        parameters = optimizer.param_groups[0]["params"]
                        for value in parameters[: len(parameters) // 2]:
                            value.add_(1.0)
                    self.fail()
                return original(optimizer, *args, **kwargs)

            monkeypatch.setattr(torch.optim.AdamW, "step", update)

    def watch(self, trainer):
        self.trainer = trainer
        for layer in trainer.model.modules():
            if isinstance(layer, torch.nn.Embedding):
                layer.register_forward_hook(self.after_forward)

    def is_now(self):
        rows = self.trainer.args.per_device_train_batch_size
        return self.trainer.state.global_step == self.step - 1 and rows > self.fitting

    def after_forward(self, module, inputs, output):
        if self.where == "forward" and self.is_now():
            self.fail()
        if self.where == "backward" and self.is_now() and torch.is_grad_enabled():
            output.requires_grad_().register_hook(lambda gradient: self.fail())

    def fail(self):
        self.times += 1
        raise self.error()


class Done:
    """A training that ended: its steps, the bytes of its adapter, and its retries."""

    def __init__(self, folder, config, family="causal", fails=None, look=False, start=None, retries=None, rows=ROWS):
        torch.rand(3)  # whatever was drawn before must not matter
        folder.mkdir(parents=True)
        ledger = Ledger()
        self.said = []
        self.retries = retries or Retries(folder / "memory.json", self.said.append)
        log = MetricsCallback(folder / "metrics.jsonl", retries=self.retries.events)
        self.run = Run(folder, family, config, examples(family, config, rows), [ledger, log])
        ledger.trainer = trainer = self.run.trainer
        if fails is not None:
            fails.watch(trainer)
        if self.retries.micro_batch is not None:
            trainer.take_batches(*self.retries.micro_batch)
        if start is not None:
            trainer.saving.checkpoints.open(self.said.append)
        if look:
            look_at_worst_batch(trainer, self.retries)

        def goes_on_after(step):
            log.go_on_after(step)
            del ledger.steps[step:]

        train_through(trainer, self.retries, start, goes_on_after)
        save_adapter(self.run.model, folder / "adapter")
        self.steps = ledger.steps
        self.adapter = (folder / "adapter" / WEIGHTS).read_bytes()
        self.lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.checkpoints = folder / "checkpoints"

    @property
    def rows(self):
        """The rows of each step, in their order, whatever the batches."""
        return [[row for batch in step[1] for row in batch] for step in self.steps]


def apart(one, other):
    """The largest relative difference of two trainings' losses and gradient norms."""
    assert [step[0] for step in one.steps] == [step[0] for step in other.steps]
    assert one.rows == other.rows
    assert [step[4] for step in one.steps] == [step[4] for step in other.steps]
    pairs = zip(one.steps, other.steps, strict=True)
    return max(abs(mine[value] - its[value]) / abs(its[value]) for mine, its in pairs for value in (2, 3))


def cell(precision="float32", dropout=0.0, rows=4, passes=1, packing=False, family="causal", **train):
    lengths = {"packing": True, "max_length": 32} if packing else {}
    return settings(
        family,
        model=PRECISIONS[precision],
        adapter={"lora_dropout": dropout},
        **{
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": passes,
            "num_train_epochs": 2.0,
            "learning_rate": 1e-3,
            "save_steps": 3,
            **lengths,
            **train,
        },
    )


PROBED = [
    ("causal", {}),
    ("causal", {"dropout": 0.1}),
    ("causal", {"precision": "nf4", "dropout": 0.1}),
    ("causal", {"precision": "int8"}),
    ("causal", {"precision": "bfloat16", "packing": True, "dropout": 0.1, "neftune_noise_alpha": 5}),
    ("causal", {"packing": True}),
    ("causal", {"gradient_checkpointing": True, "passes": 2}),
    ("head", {"dropout": 0.1}),
    ("seq2seq", {"dropout": 0.1, "neftune_noise_alpha": 5}),
]


@pytest.mark.parametrize(("family", "of"), PROBED)
def test_what_follows_a_look_at_the_worst_batch_is_the_same_as_without(family, of, tmp_path):
    config = cell(family=family, **of)
    without = Done(tmp_path / "without", config, family)
    looked = Done(tmp_path / "looked", config, family, look=True)
    assert (looked.steps, looked.adapter) == (without.steps, without.adapter)
    assert [{**one, "seconds": 0, "tokens_per_second": 0, "memory": 0} for one in looked.lines] == [
        {**one, "seconds": 0, "tokens_per_second": 0, "memory": 0} for one in without.lines
    ]


def test_the_control_a_look_that_leaves_random_numbers_drawn_is_seen(tmp_path, monkeypatch):
    from peftkit.train import shrinking

    config = cell(dropout=0.1)
    without = Done(tmp_path / "without", config)
    monkeypatch.setattr(shrinking, "set_random_state", lambda *state: None)
    assert Done(tmp_path / "looked", config, look=True).steps != without.steps


@pytest.mark.parametrize("family", ["causal", "head", "seq2seq"])
def test_the_worst_batch_is_the_largest_of_all_that_are_trained(family, tmp_path):
    config = cell(family=family, group_by_length=False)
    run = Run(tmp_path, family, config, examples(family, config, ROWS))
    seen = []

    class Sizes(TrainerCallback):
        looks = True

    original = run.trainer.training_step

    def noting(model, inputs, count=None):
        seen.append((run.trainer._looks, inputs["input_ids"].numel(), inputs["labels"].numel()))
        return original(model, inputs, count)

    run.trainer.training_step = noting
    run.trainer.look_at_worst_batch()
    run.trainer.train()
    looked = [sizes for looks, *sizes in seen if looks]
    trained = [sizes for looks, *sizes in seen if not looks]
    assert looked[-1] == [max(one[place] for one in trained + looked) for place in (0, 1)]
    assert len(trained) == run.trainer.state.max_steps


def test_the_longest_rows_read_and_written():
    from datasets import Dataset

    rows = Dataset.from_dict(
        {"input_ids": [[1] * n for n in (3, 9, 2, 5, 4)], "labels": [[1] * n for n in (1, 1, 8, 2, 2)]}
    )
    assert worst_rows(rows, 1) == [1]
    assert worst_rows(rows, 2) == [1, 2]
    assert worst_rows(rows, 3) == [1, 2, 3]
    assert worst_rows(rows.select([4, 3]), 8) == [1, 0]
    scores = Dataset.from_dict({"input_ids": [[1], [1, 1]], "labels": [0.5, 1.5]})
    assert worst_rows(scores, 1) == [1]


def test_what_modules_keep_is_put_back_after_a_look():
    from peftkit.train.worst_batch import left_as_it_is

    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    model.longest = 4
    before = {name: one.clone() for name, one in model.named_buffers()}
    with left_as_it_is(model):
        model.train()(torch.rand(5, 3))
        model.longest = 9
        model[0].register_buffer("running_mean", torch.ones(3))
        model.eval()
    assert model.longest == 4
    assert model.training
    assert all(torch.equal(one, before[name]) for name, one in model.named_buffers())


@pytest.mark.parametrize("where", ["forward", "backward", "optimizer step"])
@pytest.mark.parametrize("step", [1, 6])
def test_a_training_goes_on_as_one_that_began_with_less(where, step, tmp_path, monkeypatch):
    smaller = Done(tmp_path / "smaller", cell(rows=2, passes=2, dropout=0.0))
    fails = Fails(monkeypatch, where, step, 2)
    survived = Done(tmp_path / "survived", cell(rows=4), fails=fails)
    assert fails.times == 1
    # Weights that are changed in part are not gone on with: the newest checkpoint is that of the third step.
    last = 0 if step == 1 else 3 if where == "optimizer step" else 5
    assert survived.retries.events == [
        {
            "where": where,
            "step": last,
            "rows": 2,
            "passes": 2,
            "said": "CUDA out of memory. Tried to allocate 2.00 GiB.",
        }
    ]
    assert f"goes on after step {last} with 2 rows at once and 2 passes to a step (retry 1 of 4)" in survived.said[0]
    assert [line["step"] for line in survived.lines if "out_of_memory" in line] == [last + 1]
    assert apart(survived, smaller) < 1e-6
    if step == 1:
        assert (survived.steps, survived.adapter) == (smaller.steps, smaller.adapter)


@pytest.mark.parametrize(
    ("family", "of"),
    [
        ("causal", {"packing": True}),
        ("causal", {"passes": 2, "group_by_length": False}),
        ("causal", {"rows": 6}),
        ("causal", {"precision": "nf4", "dropout": 0.1, "neftune_noise_alpha": 5}),
        ("causal", {"gradient_checkpointing": True, "loss": "focal"}),
        ("head", {}),
        ("seq2seq", {"neftune_noise_alpha": 5}),
    ],
)
def test_other_trainings_that_go_on_from_the_start_are_the_same(family, of, tmp_path, monkeypatch):
    config = cell(family=family, **of)
    rows, passes = smaller_batch(config.train.per_device_train_batch_size, config.train.gradient_accumulation_steps)
    smaller = Done(tmp_path / "smaller", cell(family=family, **{**of, "rows": rows, "passes": passes}), family)
    fails = Fails(monkeypatch, "backward", 1, rows)
    survived = Done(tmp_path / "survived", config, family, fails=fails)
    assert fails.times == 1
    assert (survived.steps, survived.adapter) == (smaller.steps, smaller.adapter)
    user = Done(tmp_path / "user", config, family)
    assert user.rows == survived.rows


def test_half_again_and_again_and_then_no_more(tmp_path, monkeypatch):
    fails = Fails(monkeypatch, "forward", 4, 1)
    survived = Done(tmp_path / "a", cell(rows=8), fails=fails)
    assert [(one["rows"], one["passes"]) for one in survived.retries.events] == [(4, 2), (2, 4), (1, 8)]
    fails = Fails(monkeypatch, "forward", 4, 0)
    with pytest.raises(
        MemoryGoneError, match=r"in training \(forward\) with 1 row at once after 3 retries: CUDA out of"
    ):
        Done(tmp_path / "b", cell(rows=8), fails=fails)
    assert fails.times == 4
    with pytest.raises(MemoryGoneError, match="with 2 rows at once after 4 retries"):
        Done(tmp_path / "c", cell(rows=32), fails=Fails(monkeypatch, "forward", 1, 0))


def test_a_training_that_is_taken_up_goes_on_with_less(tmp_path, monkeypatch):
    """As if its process had ended right after the retry, or some steps later."""
    import shutil

    config = cell(dropout=0.1, save_steps=1, save_total_limit=99)
    survived = Done(tmp_path / "a", config, fails=Fails(monkeypatch, "backward", 5, 2))
    for last in (4, 7):
        folder = tmp_path / f"b{last}"
        shutil.copytree(survived.checkpoints, folder / "checkpoints")
        for one in (folder / "checkpoints").iterdir():
            if int(one.name.split("-")[1]) > last:
                shutil.rmtree(one)
        start = folder / "checkpoints" / f"checkpoint-{last}"
        resumed = Done(folder / "run", config, start=start, retries=Retries(tmp_path / "a" / "memory.json"))
        assert (resumed.steps, resumed.adapter) == (survived.steps[last:], survived.adapter)


def test_batches_are_not_made_smaller_where_that_would_change_the_rows_of_a_step(tmp_path, monkeypatch):
    config = cell(extra={"dataloader_drop_last": True})
    with pytest.raises(MemoryGoneError, match="rows that are dropped"):
        Done(tmp_path / "a", config, fails=Fails(monkeypatch, "forward", 2, 2))


def test_another_error_is_no_reason_to_try_again(tmp_path, monkeypatch):
    fails = Fails(monkeypatch, "forward", 2, 2, error=lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Done(tmp_path / "a", cell(), fails=fails)
    assert fails.times == 1


def test_the_look_finds_the_size_that_fits(tmp_path, monkeypatch):
    smaller = Done(tmp_path / "smaller", cell(rows=1, passes=4))
    fails = Fails(monkeypatch, "backward", 1, 1, error=lambda: gone("cpu"))
    found = Done(tmp_path / "found", cell(rows=4), fails=fails, look=True)
    assert [(one["where"], one["rows"]) for one in found.retries.events] == [
        ("the longest rows", 2),
        ("the longest rows", 1),
    ]
    assert fails.times == 2
    assert (found.steps, found.adapter) == (smaller.steps, smaller.adapter)


def test_a_save_without_memory_counts_as_a_save_that_failed(tmp_path, monkeypatch):
    from peftkit.train import checkpointed

    original, calls = checkpointed.save_adapter, []

    def save(model, folder):
        calls.append(folder)
        if len(calls) in (2, 3):
            raise gone("cpu")
        original(model, folder)

    alone = Done(tmp_path / "alone", cell(save_steps=2))
    monkeypatch.setattr(checkpointed, "save_adapter", save)
    warned = []
    folder = tmp_path / "a"
    done = Run(folder, "causal", cell(save_steps=2), examples("causal", cell(), ROWS))
    retries = Retries()
    done.trainer.saving._warn, done.trainer.saving._out_of_memory = warned.append, retries.not_saved
    done.trainer.train()
    save_adapter(done.model, folder / "adapter")
    assert [one["step"] for one in retries.events] == [2, 4]
    assert "step 2 was not saved: memory ran out: " in warned[0]
    assert (folder / "adapter" / WEIGHTS).read_bytes() == alone.adapter
    monkeypatch.setattr(checkpointed, "save_adapter", lambda model, folder: (_ for _ in ()).throw(gone()))
    with pytest.raises(OutputError, match=r"memory ran out: CUDA out of memory.*4 saves failed"):
        Done(tmp_path / "b", cell(save_steps=1))


def test_all_rows_are_not_tried_where_two_show_that_they_do_not_fit(tmp_path):
    config = cell(rows=8)
    run = Run(tmp_path, "causal", config, examples("causal", config, ROWS))
    passed = []
    run.trainer.host = HostWatch(lambda: 4_200_000_000, lambda: 10**9, lambda: 10**9 * (1 + passed[-1]))
    original = run.trainer._pass

    def taking(model, loader, numbers):
        passed.append(len(numbers))
        original(model, loader, numbers)

    run.trainer._pass = taking
    run.trainer.training_step = lambda model, inputs, count=None: torch.zeros(())
    retries = Retries()
    look_at_worst_batch(run.trainer, retries)
    assert passed == [1, 2, 1, 2, 4]  # eight would take 8 GB
    assert [one["rows"] for one in retries.events] == [4]


def test_a_training_meets_low_main_memory_as_any_other_end_of_memory(tmp_path):
    smaller = Done(tmp_path / "smaller", cell(rows=2, passes=2))
    config = cell(rows=4)
    run = Run(tmp_path / "run", "causal", config, examples("causal", config, ROWS))
    free = [10**10]
    run.trainer.host = HostWatch(lambda: free[0] if run.trainer.micro_batch[0] > 2 else 10**10)

    class Falls(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            free[0] = 10 if state.global_step == 4 else 10**10

    run.trainer.add_callback(Falls())
    retries = Retries()
    train_through(run.trainer, retries)
    assert retries.events[0]["where"] == "forward"
    assert retries.events[0]["said"].startswith("main memory: what comes next takes about")
    assert retries.micro_batch == (2, 2)
    assert run.trainer.state.global_step == smaller.run.trainer.state.global_step
