"""How many layers a run recomputes where its configuration leaves that to the forecast: as few as memory allows."""

from __future__ import annotations

import math
from dataclasses import replace

from peftkit.config import RunConfig
from peftkit.errors import ConfigError
from peftkit.plan.cards import Card
from peftkit.plan.changes import changed
from peftkit.plan.forecast import TIGHT, Subject, read, trace

KEY = "train.checkpoint_layers"


def with_layers_chosen(subject: Subject, card: Card) -> Subject:
    """Return a run with a number of recomputed layers in place of `train.checkpoint_layers=auto`; others as they are.

    The peak of a step is the highest of those of its phases, and each of these falls by the same bytes with every
    layer that is recomputed. So a line between none and all of them is nowhere below what is alive, and the number at
    which it meets what the card has, less what the forecast is unsure of, is where the search begins: what the
    allocator leaves in pieces can ask for a layer more.

    Raises:
        ConfigError: The run cannot be as it is configured, or its model has two stacks of layers.
        NotModelledError: A part of it cannot be modelled.
    """
    if subject.config.train.checkpoint_layers != "auto":
        return subject
    if subject.settings.is_encoder_decoder:
        raise ConfigError(f"{KEY}=auto is for models with one stack of layers; give a number, or leave it out")
    layers = int(subject.settings.get_text_config().num_hidden_layers)
    none, every = (_needed(subject, card, count) for count in (0, layers))
    room = round((1 - TIGHT) * card.memory)
    count = layers
    if none <= room:
        count = 0
    elif every < room:
        count = math.ceil(layers * (none - room) / (none - every))
        while count < layers and _needed(subject, card, count) > room:
            count += 1
    return replace(subject, config=with_layers(subject.config, count))


def with_layers(config: RunConfig, count: int) -> RunConfig:
    """Return a configuration that recomputes so many layers."""
    return changed(config, {KEY: count})


def _needed(subject: Subject, card: Card, count: int) -> int:
    one = replace(subject, config=with_layers(subject.config, count))
    memory = read(one, trace(one, card, judging=False), card).memory
    return memory.for_training + memory.context
