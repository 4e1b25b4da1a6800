"""The rows that a merge is judged on: held-out ones of the adapter's run, or texts where its data cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.data.encoders import make_encoder
from peftkit.data.examples import Example, RowEncoder
from peftkit.errors import PeftkitError
from peftkit.merge.inputs import Inputs
from peftkit.model.load import Source, load_tokenizer
from peftkit.recipe import Recipe, load_installed_recipe
from peftkit.ui import UI

SPLITS = ("validation", "test")
_PACKAGE = "numpy"  # whose documentation stands in for rows
_TOKENS = 128  # of a text that stands in


@dataclass(frozen=True)
class HeldOut:
    """Rows to judge models on.

    Attributes:
        what: What they are, for people.
        of: Examples of each split; texts that stand in are test rows.
        encoder: What encoded them; None for texts that stand in.
        recipe: What judges answers to them; None for texts that stand in.
    """

    what: str
    of: dict[str, list[Example]]
    encoder: RowEncoder | None = None
    recipe: Recipe | None = None

    def first(self, split: str, most: int) -> list[Example]:
        """Return at most so many rows of a split."""
        return self.of[split][:most]


def find_held_out(inputs: Inputs, ui: UI) -> HeldOut:
    """Read the data of an adapter's run again; where that cannot be, take documentation, and random tokens at worst."""
    why = "the adapter has no passport that says what it was trained on"
    if inputs.passport is not None and inputs.passport.adopted is not None:
        why = "the adapter was trained by another program, on data that it does not name"
    elif inputs.passport is not None:
        try:
            return _of_run(inputs, ui)
        except PeftkitError as error:
            why = f"the data of its run cannot be had: {error}"
    ui.note(f"{why}; it is judged on other texts")
    return _standing_in(inputs)


def _of_run(inputs: Inputs, ui: UI) -> HeldOut:
    from peftkit.data.prepare import prepare_data
    from peftkit.data.read import read_data

    passport = inputs.passport
    assert passport is not None
    config = passport.config
    tokenizer = load_tokenizer(inputs.source, config.model.extra)
    template = passport.tokenizer.template
    tokenizer.chat_template = None if template == PLAIN_TEMPLATE else template
    encoder = make_encoder(inputs.family, tokenizer, config)
    recipe = load_installed_recipe(config.recipe)
    data = prepare_data(config, read_data(config, recipe), encoder)
    if data.report["source"] != passport.data["source"]:
        ui.warn("the data have changed since the run; the rows that the merge is judged on are not the run's own")
    return HeldOut(f"rows of {config.recipe}", {"validation": data.validation, "test": data.test}, encoder, recipe)


def _standing_in(inputs: Inputs) -> HeldOut:
    from peftkit.data.documentation import documented

    texts = [one.text for one in islice(documented((_PACKAGE,)), 64)]
    try:
        tokenizer: Any = load_tokenizer(Source(str(inputs.folder)))
        ids: Sequence[list[int]] = tokenizer(texts, add_special_tokens=True)["input_ids"]
        what = f"texts of {_PACKAGE}'s documentation"
    except PeftkitError:
        import torch

        size = int(inputs.settings.get_text_config().vocab_size)
        drawn = torch.randint(size, (len(texts), _TOKENS), generator=torch.Generator().manual_seed(0))
        ids, what = drawn.tolist(), "random tokens, as the base has no tokenizer"
    examples = [
        Example(f"text {number}", {}, "", one[:1], one[1:_TOKENS], False)
        for number, one in enumerate(ids, 1)
        if len(one) > 1
    ]
    return HeldOut(what, {"validation": [], "test": examples})
