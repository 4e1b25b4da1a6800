"""Answers of a head against a plain pass over one row at a time."""

import math

import pytest
import torch

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.evaluate.heads import answer_by_head
from peftkit.model.load import find_model, load_model, load_tokenizer

from ..models import ENCODERS, tiny

torch.set_num_threads(1)
machine.quiet_libraries()
LABELS = ("bad", "so-so", "good")


def run_config(name, **task):
    task = {"kind": "classification", "labels": LABELS, "answer": "head", **task}
    model = {"path": str(tiny(name)), "quantization": "none", "dtype": "float32"}
    return RunConfig(recipe="sentiment", task=task, model=model)


class Head:
    """A model with a head that tells texts apart, and how to ask it."""

    def __init__(self, name, **task):
        self.config = run_config(name, **task)
        source = find_model(self.config.model)
        self.tokenizer = load_tokenizer(source)
        self.model = load_model(source, self.config, "head")
        torch.manual_seed(1)
        with torch.no_grad():
            for value in self.model.parameters():
                if value.dim() > 1:
                    value.normal_(std=0.3)

    def ask(self, prompts, batch_size=4, on_batch=None):
        return answer_by_head(
            self.model, self.tokenizer, prompts, self.config.task, batch_size=batch_size, on_batch=on_batch
        )

    def logits(self, prompt):
        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([prompt])).logits[0].double()


@pytest.fixture
def prompts():
    """Random texts of ragged lengths, out of order."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(7, 50, (length,), generator=generator).tolist() for length in (17, 1, 40, 5, 40, 2, 23, 9, 31)
    ]


@pytest.mark.parametrize("name", [*ENCODERS, "llama"])
def test_scores_are_log_probabilities_of_each_row_alone(name, prompts):
    head = Head(name)
    answers = head.ask(prompts)
    assert len({tuple(one.scores.values()) for one in answers}) > 6
    for prompt, one in zip(prompts, answers, strict=True):
        expected = head.logits(prompt).log_softmax(-1).tolist()
        assert list(one.scores) == list(LABELS)
        assert list(one.scores.values()) == pytest.approx(expected, abs=2e-4)
        assert one.label == one.text == one.likeliest == LABELS[expected.index(max(expected))]


def test_batch_size_changes_nothing_and_every_row_is_counted_once(prompts):
    head, counts = Head("bert"), []
    alone = [head.ask([prompt])[0] for prompt in prompts]
    for batch_size in (1, 4, 50):
        together = head.ask(prompts, batch_size, counts.append)
        assert [one.label for one in together] == [one.label for one in alone]
        for one, single in zip(together, alone, strict=True):
            assert dict(one.scores) == pytest.approx(dict(single.scores), abs=2e-4)
    assert counts == [1] * 9 + [4, 4, 1] + [9]
    assert head.ask([]) == []


def test_several_labels_are_those_that_are_likelier_than_not(prompts):
    head = Head("bert", multi_label=True)
    answers = head.ask(prompts)
    assert len({one.labels for one in answers}) > 1
    for prompt, one in zip(prompts, answers, strict=True):
        logits = head.logits(prompt).tolist()
        assert one.labels == tuple(label for label, value in zip(LABELS, logits, strict=True) if value >= 0)
        assert one.text == ", ".join(one.labels)
        expected = [-math.log1p(math.exp(-value)) for value in logits]
        assert list(one.scores.values()) == pytest.approx(expected, abs=2e-4)
        assert one.label is None
        assert one.valid


@pytest.mark.parametrize(("mean", "std"), [(None, None), (50.0, 20.0)])
def test_a_score_comes_back_on_the_scale_of_the_data(prompts, mean, std):
    head = Head("bert", kind="regression", labels=None, score_mean=mean, score_std=std)
    for prompt, one in zip(prompts, head.ask(prompts), strict=True):
        expected = (mean or 0) + (std or 1) * float(head.logits(prompt)[0])
        assert one.value == pytest.approx(expected, abs=1e-3)
        assert one.text == f"{one.value:.4g}"
        assert one.as_json() == {"answer": one.text, "value": one.value}
