"""A training that is taken up goes on bit for bit as if it had never stopped.

Compared are the rows, loss, gradient norm and learning rate of each later step, and the bytes of the adapter.
"""

import os
from itertools import product

import pytest

from peftkit.train import checkpointed
from peftkit.train.optimizers import OPTIMIZERS

from ..train.test_optimizers import SETTINGS
from .training import PRECISIONS, both, differences, settings

CELLS = list(product(PRECISIONS, (0.0, 0.1), (1, 4), (False, True)))
QUICK = [  # every two values of two dimensions stand together in one of them
    ("float32", 0.1, 4, True),
    ("float32", 0.0, 1, False),
    ("bfloat16", 0.1, 1, True),
    ("bfloat16", 0.0, 4, False),
    ("nf4", 0.1, 4, False),
    ("nf4", 0.0, 1, True),
    ("int8", 0.1, 1, False),
    ("int8", 0.0, 4, True),
]


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    """Thousands of saves are made here, and none is in danger."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def cell(precision, dropout, accumulation, packing, **train):
    lengths = {"packing": True, "max_length": 32} if packing else {}
    return settings(
        model=PRECISIONS[precision],
        adapter={"lora_dropout": dropout},
        gradient_accumulation_steps=accumulation,
        **lengths,
        **train,
    )


def kill_steps(trained, kills):
    """After which steps to stop: in the middle of an epoch, at its end, and before its last step."""
    epoch = trained.per_epoch
    places = {"middle": epoch // 2, "end": epoch, "last": epoch - 1}
    return [place + number * epoch for place in places.values() for number in range(kills)]


@pytest.mark.parametrize("of", QUICK)
def test_quick_matrix(of, tmp_path):
    config = cell(*of, num_train_epochs=2.0)
    alone, saved = both(tmp_path, config)
    assert differences(alone, saved, tmp_path, config, kill_steps(alone, 1)) == []


@pytest.mark.slow
@pytest.mark.parametrize("of", CELLS)
def test_full_matrix(of, tmp_path):
    config = cell(*of)
    alone, saved = both(tmp_path, config)
    if of[2] == 4:  # the last step of an epoch takes fewer batches than the others
        assert len(alone.steps[alone.per_epoch - 1][1]) < 4
    assert differences(alone, saved, tmp_path, config, kill_steps(alone, 3)) == []


def test_it_is_seen_when_the_random_state_is_not_put_back(tmp_path, monkeypatch):
    """The control: the same comparison fails where dropout draws other numbers."""
    config = cell("float32", 0.1, 1, False, num_train_epochs=2.0)
    alone, saved = both(tmp_path, config)
    steps = kill_steps(alone, 1)
    assert differences(alone, saved, tmp_path / "with", config, steps) == []
    monkeypatch.setattr(checkpointed, "set_random", lambda part: None)
    assert differences(alone, saved, tmp_path / "without", config, steps) == steps


@pytest.mark.parametrize("family", ["head", "seq2seq"])
@pytest.mark.parametrize("grouped", [True, False])
def test_other_kinds_of_models(family, grouped, tmp_path):
    config = settings(family, num_train_epochs=2.0, group_by_length=grouped, logging_steps=4, neftune_noise_alpha=5)
    alone, saved = both(tmp_path, config, family)
    epoch = alone.per_epoch
    assert differences(alone, saved, tmp_path, config, [2, epoch, epoch + 3, 2 * epoch - 1], family) == []


def test_rows_in_random_order_and_read_by_other_processes(tmp_path):
    """Steps between two lines of the log, in the second epoch, whose order is drawn from a seed of the epoch."""
    config = cell("float32", 0.1, 4, False, num_train_epochs=2.0, group_by_length=False, logging_steps=3)
    alone, saved = both(tmp_path / "here", config)
    epoch = alone.per_epoch
    steps = [1, epoch + 1, epoch + 2, 2 * epoch]
    assert differences(alone, saved, tmp_path / "here", config, steps) == []
    workers = {**config.model_dump()["train"], "extra": {"dataloader_num_workers": 2}}
    beside = config.model_copy(update={"train": type(config.train)(**workers)})
    assert differences(alone, saved, tmp_path / "beside", beside, [epoch + 1]) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on(optimizer, tmp_path):
    # A rank of 256 gives tensors of more than 4096 values, which those of 8 bits hold in 8 bits.
    usual = {"max_steps": 6, "per_device_train_batch_size": 8, "adapter": {"r": 256}}
    config = settings(optim=optimizer, **{**usual, **SETTINGS.get(optimizer, {})})
    alone, saved = both(tmp_path, config, rows=16)
    assert differences(alone, saved, tmp_path, config, [0, 3, 6], rows=16) == []


@pytest.mark.parametrize("method", ["adalora", "vera", "ia3", "prompt_tuning"])
def test_other_methods_go_on(method, tmp_path):
    adapter = {"method": method, "r": None}
    if method == "adalora":
        adapter["extra"] = {"init_r": 6, "target_r": 3, "tinit": 2, "tfinal": 3, "deltaT": 2}
    config = settings(max_steps=12, per_device_train_batch_size=8, adapter=adapter)
    alone, saved = both(tmp_path, config, rows=16)
    assert differences(alone, saved, tmp_path, config, [1, 5, 8, 10], rows=16) == []


def test_a_start_that_changes_the_base_weights_goes_on(tmp_path):
    config = settings(max_steps=6, per_device_train_batch_size=8, adapter={"init_lora_weights": "pissa"})
    alone, saved = both(tmp_path, config, rows=16)
    assert differences(alone, saved, tmp_path, config, [3], rows=16) == []
