"""A training that is taken up goes on bit for bit as if it had never stopped.

Compared are the rows, loss, gradient norm and learning rate of each later step, and the bytes of the adapter.
"""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

from peftkit.train import checkpointed

from .children import assert_same, at_step, in_a_child, kill
from .rows import Case
from .training import PRECISIONS, Trained, both, differences, settings, without_saves
from .world import alone

WAYS = list(product(PRECISIONS, (0.0, 0.1), (1, 4), (False, True)))
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
PLACES = ("in the middle of an epoch", "at its end", "before its last step")
LEDGERS = 100


def cases(full: bool) -> Iterator[Case]:
    """Give each way to train with kills at three kinds of places, and what else may be between a stop and its end."""
    for way in WAYS if full else QUICK:
        name = "{}, dropout {}, accumulation {}, packing {}".format(*way)
        yield Case(name, partial(one_way, way, 3 if full else 1))
    yield Case("the control: random state is not put back", the_control)
    for family in ("head", "seq2seq"):
        for grouped in (True, False):
            yield Case(f"a {family} model, grouped {grouped}", partial(another_family, family, grouped))
    for workers in (0, 2):
        yield Case(f"{workers} workers", partial(read_by_others, workers))
    yield Case("five kills in one run, and the folder moved", five_kills)
    yield Case("every row as often as there are epochs", partial(the_ledger, LEDGERS if full else 5))


def cell(precision, dropout, accumulation, packing, **train):
    """Return the configuration of one way to train."""
    lengths = {"packing": True, "max_length": 32} if packing else {}
    return settings(
        model=PRECISIONS[precision],
        adapter={"lora_dropout": dropout},
        gradient_accumulation_steps=accumulation,
        **lengths,
        **train,
    )


def kill_steps(trained: Trained, kills: int) -> list[int]:
    """After which steps to stop: in the middle of so many epochs, at their ends, and before their last steps."""
    epoch = trained.per_epoch
    return [place + number * epoch for place in (epoch // 2, epoch, epoch - 1) for number in range(kills)]


def one_way(way, kills: int, folder: Path) -> dict[str, int]:
    """Compare one way to train; of four batches to a step, the last step of an epoch takes fewer."""
    config = cell(*way, num_train_epochs=kills + 1.0)
    with no_wait_for_the_disk():
        alone_, saved = both(folder, config)
        if way[2] == 4 and not way[3]:
            assert len(alone_.steps[alone_.per_epoch - 1][1]) < 4
        steps = kill_steps(alone_, kills)
        assert differences(alone_, saved, folder, config, steps) == []
    return {"tried": len(PLACES), "kill steps": len(steps), "steps compared": len(alone_.steps) * len(steps)}


def the_control(folder: Path) -> None:
    """See that the same comparison fails where dropout draws other numbers."""
    config = cell("float32", 0.1, 1, False, num_train_epochs=2.0)
    original = checkpointed.set_random
    with no_wait_for_the_disk():
        alone_, saved = both(folder, config)
        steps = kill_steps(alone_, 1)
        assert differences(alone_, saved, folder / "with", config, steps) == []
        checkpointed.set_random = lambda part: None
        try:
            assert differences(alone_, saved, folder / "without", config, steps) == steps
        finally:
            checkpointed.set_random = original


def another_family(family: str, grouped: bool, folder: Path) -> dict[str, int]:
    """Compare an encoder with a head, or an encoder-decoder."""
    config = settings(family, num_train_epochs=2.0, group_by_length=grouped, logging_steps=4, neftune_noise_alpha=5)
    with no_wait_for_the_disk():
        alone_, saved = both(folder, config, family)
        epoch = alone_.per_epoch
        steps = [2, epoch, epoch + 3, 2 * epoch - 1]
        assert differences(alone_, saved, folder, config, steps, family) == []
    return {"kill steps": len(steps)}


def read_by_others(workers: int, folder: Path) -> dict[str, int]:
    """Compare rows in random order: steps between two lines of the log, and in the second epoch, drawn anew."""
    config = cell("float32", 0.1, 4, False, num_train_epochs=2.0, group_by_length=False, logging_steps=3)
    beside = {**config.model_dump()["train"], "extra": {"dataloader_num_workers": workers}}
    config = config.model_copy(update={"train": type(config.train)(**beside)})
    with no_wait_for_the_disk():
        alone_, saved = both(folder, config)
        epoch = alone_.per_epoch
        steps = [epoch + 1] if workers else [1, epoch + 1, epoch + 2, 2 * epoch]
        assert differences(alone_, saved, folder, config, steps) == []
    return {"kill steps": len(steps)}


def five_kills(folder: Path) -> dict[str, int]:
    """Kill one run five times, one of them again at the same step, and go on in another place."""
    words, wanted = alone()
    out, moved = folder / "run", folder / "moved"
    argv = ["run", "sentiment", *words, "--out", out, "--resume", "--quiet"]
    for step in (2, 4, 8, 8, 12):
        assert in_a_child(argv, lambda step=step: at_step(step, kill)) == -signal.SIGKILL
    out.rename(moved)
    assert in_a_child(["resume", moved, "--quiet"]) == 0
    assert_same(moved, wanted)
    return {"kill steps": 5}


def the_ledger(kills: int, folder: Path) -> dict[str, int]:
    """Stop at so many steps: before and after it together, each row is taken once in each epoch."""
    epochs = 4.0
    config = cell("float32", 0.0, 1, False, num_train_epochs=epochs, group_by_length=False)
    with no_wait_for_the_disk():
        _, saved = both(folder, config)
        last = len(saved.steps)
        for kill_number in range(kills):
            step = kill_number * (last - 1) // max(1, kills - 1)
            resumed = Trained(folder / "after", without_saves(config), resume=saved.checkpoints / f"checkpoint-{step}")
            taken = [line for line in saved.steps if line[0] <= step] + resumed.steps
            counted = Counter(row for line in taken for batch in line[1] for row in batch)
            assert set(counted.values()) == {int(epochs)}, (step, counted)
            shutil.rmtree(folder / "after")
    return {"tried": kills, "rows counted": kills * len(counted)}


@contextmanager
def no_wait_for_the_disk() -> Iterator[None]:
    """Make thousands of saves quick, of which none is in danger."""
    original = os.fsync
    os.fsync = lambda handle: None
    try:
        yield
    finally:
        os.fsync = original
