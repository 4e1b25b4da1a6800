"""Two trained adapters that the tests share."""

import pytest

from peftkit.pipeline import run as whole_run

from .. import stages  # noqa: F401 - one thread for tiny products


@pytest.fixture(scope="session")
def runs(tiny_model, reviews, tmp_path_factory):
    """Folders of two runs on one base."""
    folder = tmp_path_factory.mktemp("runs")
    words = [
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "model.quantization=none",
        "model.dtype=float32",
        "train.max_steps=3",
        "train.learning_rate=1e-2",
        "train.max_length=256",
        "evaluate.max_rows=6",
        "evaluate.bootstrap_samples=20",
    ]
    return [
        whole_run("sentiment", words=[*words, f"train.seed={seed}", *more], out=folder / f"run{seed}").folder
        for seed, more in ((1, ()), (2, ("adapter.r=4", "adapter.use_rslora=true")))
    ]
