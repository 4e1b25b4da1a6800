"""The stages of a run on the tiny model, each to be called alone."""

import gc
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from peftkit import machine
from peftkit.adapter.attach import attach
from peftkit.config import RunConfig
from peftkit.data.encoders import make_encoder
from peftkit.data.examples import RowEncoder
from peftkit.data.prepare import Prepared, prepare_data
from peftkit.data.read import read_data
from peftkit.evaluate.answers import answer
from peftkit.model.family import Family, family_of
from peftkit.model.load import Source, find_model, load_model, load_tokenizer
from peftkit.recipe import Recipe
from peftkit.resolve import resolve
from peftkit.train.callbacks import MetricsCallback
from peftkit.train.trainers import make_trainer

# A tiny model's products are too small to share: threads that wait for each other cost far more than they save.
torch.set_num_threads(1)
machine.quiet_libraries()
gc.freeze()  # a collection after each load need not look at all that was imported


@dataclass
class Stages:
    """A configuration and its data; models are loaded anew at each call."""

    config: RunConfig
    recipe: Recipe
    source: Source
    family: Family
    encoder: RowEncoder
    data: Prepared

    @classmethod
    def of(cls, words, **values):
        resolved = resolve("sentiment", words=[*words], values=values)
        config = resolved.config
        source = find_model(config.model)
        family = family_of(source, config)
        found = read_data(config, resolved.recipe)
        encoder = make_encoder(family, load_tokenizer(source), config)
        return cls(config, resolved.recipe, source, family, encoder, prepare_data(config, found, encoder))

    def base(self):
        return load_model(self.source, self.config, self.family)

    def adapted(self):
        return attach(self.base(), self.config.adapter, base=self.config.model, seed=self.config.train.seed)

    def trainer(self, model, folder: Path, callbacks=(), examples=None):
        examples = self.data.train if examples is None else examples
        checkpoints = folder / "checkpoints"
        return make_trainer(model, self.family, self.encoder.tokenizer, examples, self.config, checkpoints, callbacks)

    def train(self, model, folder: Path):
        """Train, and return the lines of metrics.jsonl."""
        folder.mkdir(parents=True, exist_ok=True)
        metrics = folder / "metrics.jsonl"
        self.trainer(model, folder, [MetricsCallback(metrics, lambda line, total: None)]).train()
        return [json.loads(line) for line in metrics.read_text().splitlines()]

    def answers(self, model, rows=8, batch_size=4, max_new_tokens=4):
        return answer(
            model.eval(),
            self.encoder.tokenizer,
            [example.prompt_ids for example in self.data.test[:rows]],
            label_ids=self.encoder.label_ids(),
            end_ids=self.encoder.end_ids,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )


def make_visible(model):
    """Give every adapter an effect: LoRA starts as a product with zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05)
    return model
