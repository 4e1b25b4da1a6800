"""Every optimizer and other methods of adapters go on bit for bit; the rows of `proof_resume.py` try ways to train."""

import pytest

from peftkit.train.optimizers import OPTIMIZERS

from ..train.test_optimizers import SETTINGS
from .proof_resume import no_wait_for_the_disk
from .training import both, differences, settings


@pytest.fixture(autouse=True)
def quick_saves():
    """Thousands of saves are made here, and none is in danger."""
    with no_wait_for_the_disk():
        yield


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
