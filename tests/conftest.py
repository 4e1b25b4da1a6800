"""A tiny model, its tokenizer, and a small data set that the tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; set before torch is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell in the background leaves it, for our children too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def float32_everywhere() -> Iterator[None]:
    """Answers are compared to the last digits, so models compute in float32, whatever this machine is fastest in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peftkit.machine.fast_dtype", lambda: "float32")
        yield


@pytest.fixture(autouse=True)
def own_times(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs of tests took is not kept among the times of the user's own."""
    monkeypatch.setattr("peftkit.plan.calibration._file", lambda: tmp_path_factory.getbasetemp() / "steps.jsonl")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with a byte-level tokenizer: steps of milliseconds."""
    from .small import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON-lines file of 240 short texts with labels that can be learned."""
    from .small import write_reviews

    return write_reviews(tmp_path_factory.mktemp("data") / "reviews.jsonl")


@pytest.fixture
def small(tiny_model: Path, reviews: Path) -> list[str]:
    """Words of a run that takes a few seconds."""
    return [
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "data.test_fraction=0.2",
        "train.max_steps=4",
        "train.max_length=256",
        "evaluate.max_rows=12",
        "evaluate.bootstrap_samples=50",
    ]
