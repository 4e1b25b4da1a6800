"""The engine: who joins a batch when, what is refused, and what ends early."""

import threading

import pytest

from peftkit.adapter.trained import open_adapters
from peftkit.serve.batching import STOPPING, Engine, QueueFull, Stopping
from peftkit.serve.mixing import Mixer, can_mix
from peftkit.serve.rows import Job, Rows
from peftkit.serve.writing import Sampling, Writer

from .reference import generated, tokenizer

pytestmark = pytest.mark.xdist_group("serve")

NEVER = frozenset[int]()


@pytest.fixture(scope="module")
def trained(adapters):
    return dict(zip(adapters, open_adapters(list(adapters.values())), strict=True))


@pytest.fixture(scope="module")
def mixable(trained):
    return trained["mood"].model


@pytest.fixture(scope="module")
def unmixable(adapters, dora):
    return open_adapters([dora, adapters["talk"]])[0].model


class Asked(Job):
    """A job that keeps what it is told."""

    def __init__(self, base, text, key, count, gate=None):
        self.pieces, self.done = [], threading.Event()
        ids = tokenizer(base)(text)["input_ids"]
        super().__init__(ids, key, Writer(tokenizer(base), NEVER, Sampling(count)), self.hear)
        self.gate = gate

    def hear(self, piece):
        self.pieces.append(piece)
        if piece.finish or piece.failure:
            self.done.set()
        elif self.gate is not None:
            self.gate(self)


def engine(model, max_batch=4, max_waiting=4, report=print):
    return Engine(model, padding=0, max_batch=max_batch, max_waiting=max_waiting, report=report)


def finish(one):
    one.stop()
    one.join()


def test_those_that_wait_join_a_running_batch_and_write_what_they_would_alone(mixable, lively_model, adapters):
    """The second and third are sent when the first has written some: other adapters, other lengths."""
    one = engine(mixable)
    later = [
        Asked(lively_model, "a much longer text than the first", "adapter_0001", 30),
        Asked(lively_model, "b", None, 5),
    ]
    sent, together = [], []

    def send(job):
        together.append(one.counts()[0])
        if len(job.writer.tokens) >= 6 and not sent:
            sent.append(True)
            one.submit(later)

    first = Asked(lively_model, "the first", "default", 40, send)
    one.start()
    one.submit([first])
    for job in (first, *later):
        assert job.done.wait(60)
    finish(one)
    assert together[0] == 1
    assert max(together) == 3
    for job, name in zip((first, *later), ("mood", "topic", None), strict=True):
        count = len(job.writer.tokens)
        assert job.writer.tokens == generated(lively_model, adapters.get(name), job.prompt, count, ends=(-1,))


def test_where_adapters_cannot_be_mixed_a_batch_takes_its_own_and_overtakes_nobody(unmixable, lively_model):
    one = engine(unmixable, max_batch=8, max_waiting=8)
    assert one.mixer is None
    keys = ["default", "adapter_0001", "default", None, "adapter_0001"]
    jobs = [Asked(lively_model, f"no. {place}", key, 6) for place, key in enumerate(keys)]
    ended = []
    for job in jobs:
        hear = job.tell
        job.tell = lambda piece, job=job, hear=hear: (
            ended.append(jobs.index(job)) if piece.finish else None,
            hear(piece),
        )
    one.submit(jobs)
    one.start()
    assert all(job.done.wait(60) for job in jobs)
    finish(one)
    assert ended == [0, 2, 1, 4, 3]


def test_a_late_one_of_the_running_adapter_does_not_overtake_another(unmixable, lively_model):
    one = engine(unmixable)
    other, late = Asked(lively_model, "other", "adapter_0001", 3), Asked(lively_model, "late", "default", 3)

    sent, ended = [], []

    def send(job):
        if len(job.writer.tokens) >= 3 and not sent:
            sent.append(True)
            one.submit([other, late])

    first = Asked(lively_model, "first", "default", 30, send)
    late.gate = lambda job: ended.append(other.done.is_set())
    one.start()
    one.submit([first])
    assert late.done.wait(60)
    finish(one)
    assert ended
    assert all(ended)


@pytest.mark.parametrize(("name", "expected"), [("mixable", True), ("unmixable", False)])
def test_what_can_be_mixed(name, expected, request):
    assert can_mix(request.getfixturevalue(name)) is expected


def test_a_full_queue_takes_no_more_and_says_when_to_come_again(mixable, lively_model):
    one = engine(mixable, max_batch=2, max_waiting=1)
    jobs = [Asked(lively_model, "x", None, 3) for _ in range(4)]
    one.submit(jobs[:2])
    with pytest.raises(QueueFull) as full:  # all or none
        one.submit(jobs[2:])
    assert 1 <= full.value.retry_after <= 60
    one.submit(jobs[2:3])
    with pytest.raises(QueueFull):
        one.submit(jobs[3:])
    assert one.counts() == (0, 3)
    one.start()
    assert all(job.done.wait(60) for job in jobs[:3])
    one.submit(jobs[3:])
    assert jobs[3].done.wait(60)
    finish(one)


def test_a_cancelled_answer_is_dropped_and_the_others_go_on(mixable, lively_model):
    one = engine(mixable)
    waiting = Asked(lively_model, "never begun", None, 5)
    waiting.cancelled = True

    def hang_up(job):
        job.cancelled = len(job.writer.tokens) >= 5

    gone, stays = Asked(lively_model, "gone", None, 10_000, hang_up), Asked(lively_model, "stays", "default", 50)
    one.submit([gone, stays, waiting])
    one.start()
    assert stays.done.wait(60)
    finish(one)
    assert not gone.done.is_set()
    assert len(gone.writer.tokens) < 10
    assert len(stays.writer.tokens) == 50
    assert waiting.pieces == []


def test_stopping_refuses_what_waits_and_lets_what_runs_end(mixable, lively_model):
    one = engine(mixable, max_batch=1)
    waits = Asked(lively_model, "waits", None, 5)

    def stop(job):
        if len(job.writer.tokens) >= 4 and not waits.done.is_set():
            one.submit([waits])
            one.stop()

    runs = Asked(lively_model, "runs", None, 30, stop)
    one.start()
    one.submit([runs])
    assert waits.done.wait(60)
    assert runs.done.wait(60)
    assert [piece.failure for piece in waits.pieces] == [STOPPING]
    assert len(runs.writer.tokens) == 30
    with pytest.raises(Stopping):
        one.submit([Asked(lively_model, "late", None, 5)])
    one.join()


def test_a_failure_in_the_model_ends_its_batch_and_not_the_engine(mixable, lively_model):
    told = []
    one = engine(mixable, report=told.append)
    vocabulary = mixable.get_input_embeddings().weight.shape[0]
    bad, beside = Asked(lively_model, "x", None, 5), Asked(lively_model, "y", "default", 5)
    bad.prompt = [vocabulary + 5]  # the server refuses such ids; here they stand for whatever fails
    one.submit([bad, beside])
    one.start()
    assert bad.done.wait(60)
    assert beside.done.wait(60)
    assert bad.pieces[-1].failure == beside.pieces[-1].failure == "the model failed on this batch of requests"
    good = Asked(lively_model, "z", "default", 5)
    one.submit([good])
    assert good.done.wait(60)
    finish(one)
    assert len(good.writer.tokens) == 5
    assert len(told) == 1
    assert told[0].startswith("a batch failed: IndexError in ")


def test_padding_that_nobody_needs_is_given_up(mixable, lively_model):
    import torch

    rows = Rows(mixable, padding=0, mixer=Mixer(mixable))
    jobs = [Asked(lively_model, "x" * 60, None, 3), Asked(lively_model, "y", "default", 30)]
    with torch.inference_mode():
        rows.join(jobs)
        for _ in range(6):
            rows.step()
    assert rows.jobs == jobs[1:]
    assert rows._stepper._mask.shape == (1, 1 + 6)
