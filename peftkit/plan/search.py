"""The largest value of a key that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from peftkit.config import RunConfig
from peftkit.errors import ConfigError, PeftkitError
from peftkit.plan.advice import Adviser
from peftkit.plan.forecast import Forecast, Subject
from peftkit.plan.shapes import known_models, known_settings

KEYS = {
    "max_length": ("train.max_length", 64),
    "batch": ("train.per_device_train_batch_size", 1),
    "rank": ("adapter.r", 8),
}
"""What `--max` takes beside `model`: the key, and in what steps its value is given."""

_MOST = {"max_length": 1 << 20, "batch": 1 << 12, "rank": 1 << 10}
_ROUNDS = 12


@dataclass(frozen=True)
class Largest:
    """The largest value that fits.

    Attributes:
        key: The key.
        value: The value; None where not even the smallest fits.
        total: Bytes of the card that the run then takes.
    """

    key: str
    value: int | str | None
    total: int


def require_maximum(name: str, config: RunConfig) -> None:
    """Refuse what `--max` cannot find, before anything is traced for it.

    Raises:
        ConfigError: There is no such key, or the run has no such setting.
    """
    if name not in (*KEYS, "model"):
        raise ConfigError(f"--max '{name}' is not known; it can be max_length, batch, rank or model")
    if name == "rank" and config.adapter.r is None:
        raise ConfigError(f"--max rank: adapter.method={config.adapter.method} has no rank; give another key")


def largest(name: str, subject: Subject, now: Forecast) -> Largest:
    """Find the largest value of a key that fits.

    Args:
        name: `max_length`, `batch`, `rank` or `model`.
        subject: The run.
        now: Its forecast on the card.
    """
    adviser = Adviser(subject, now)
    if name == "model":
        return _largest_model(subject, adviser)
    key, step = KEYS[name]

    def total(value: int) -> int:
        return adviser.total_of(_with(adviser, key, value))

    most = _MOST[name]
    positions = getattr(subject.settings.get_text_config(), "max_position_embeddings", None)
    if name == "max_length" and positions:
        most = min(most, int(positions))
    return _search(key, total, now.card.memory, step, most)


def _with(adviser: Adviser, key: str, value: int) -> Subject:
    subject = adviser.with_values({key: value})
    if key != "train.max_length":
        return subject
    # Rows as long as that: the question is what the card takes, whatever the rows of today are.
    load = subject.load
    trained = value if load.trained >= load.longest else load.trained
    return replace(subject, load=replace(load, longest=value, prompt=value, trained=trained, even=True))


def _search(key: str, total: Callable[[int], int], memory: int, step: int, most: int) -> Largest:
    """Go by a line through two traced values, and trace where it says that the memory ends, until it is found.

    The smallest step that does not fit any more and the largest that does close in on each other.
    """
    fits, fits_total = step, total(step)
    if fits_total > memory:
        return Largest(key, None, fits_total)
    beyond, beyond_total = _up(2 * step, step), 0
    while beyond <= most and (beyond_total := total(beyond)) <= memory:
        fits, fits_total, beyond = beyond, beyond_total, beyond * 4
    if beyond > most:
        last = total(most)
        if last <= memory:
            return Largest(key, most, last)
        beyond, beyond_total = most, last
    for _ in range(_ROUNDS):
        if beyond - fits <= step:
            break
        slope = (beyond_total - fits_total) / (beyond - fits)
        guess = fits + int((memory - fits_total) / slope) // step * step
        guess = min(max(guess, fits + step), beyond - step)
        guessed = total(guess)
        if guessed <= memory:
            fits, fits_total = guess, guessed
        else:
            beyond, beyond_total = guess, guessed
    return Largest(key, fits, fits_total)


def _largest_model(subject: Subject, adviser: Adviser) -> Largest:
    best = Largest("model.path", None, 0)
    for name, _ in sorted(known_models().items(), key=lambda item: item[1], reverse=True):
        settings = known_settings(name)
        if settings is None or settings.is_encoder_decoder or not _alike(subject, settings):
            continue
        config = subject.config.model_copy(
            update={"model": subject.config.model.model_copy(update={"path": name, "revision": None})}
        )
        try:
            size = adviser.total_of(replace(subject, settings=settings, config=config))
        except (PeftkitError, ValidationError):
            continue
        best = Largest("model.path", name, size)
        if size <= adviser.card.memory:
            return best
    return replace(best, value=None)


def _alike(subject: Subject, settings: object) -> bool:
    """Whether a model answers in the same way: encoders with encoders, decoders with decoders."""
    from peftkit.model.family import _is_encoder

    return _is_encoder(subject.settings) == _is_encoder(settings)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
