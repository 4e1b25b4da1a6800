"""Each loss against torch's own, or its formula written out in numpy."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from peftkit.config import TrainConfig
from peftkit.train.losses import (
    cross_entropy,
    dft,
    focal,
    label_loss,
    labels_loss,
    log_prob,
    mean_terms,
    score_loss,
    smoothed_cross_entropy,
)

CLASSES = 7
generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 3, CLASSES, generator=generator) * 3
LABELS = torch.randint(0, CLASSES, (5, 3), generator=generator)
BINARY = torch.randint(0, 2, (6, 4), generator=generator).float()
MANY = torch.randn(6, 4, generator=generator) * 2
ONE = torch.ones(4)


def flat_cross_entropy(**settings):
    return functional.cross_entropy(LOGITS.flatten(0, 1), LABELS.flatten(), reduction="none", **settings).view(5, 3)


def probabilities():
    exponentials = np.exp(LOGITS.numpy().astype(np.float64))
    shares = exponentials / exponentials.sum(-1, keepdims=True)
    return np.take_along_axis(shares, LABELS.numpy()[..., None], -1)[..., 0]


def same(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=1e-5, rtol=1e-5)


def test_cross_entropy_is_torch_s():
    same(cross_entropy(log_prob(LOGITS, LABELS)), flat_cross_entropy())


def test_labels_below_zero_harm_nothing():
    found = log_prob(LOGITS, torch.where(LABELS == 0, -100, LABELS))
    assert found.isfinite().all()
    same(found[LABELS != 0], log_prob(LOGITS, LABELS)[LABELS != 0])


def test_low_precision_logits_are_taken_in_float32():
    assert log_prob(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_dft_is_its_formula_and_its_factor_has_no_gradient():
    p = probabilities()
    same(dft(log_prob(LOGITS, LABELS)), -p * np.log(p))
    log_probs = torch.tensor([-0.5, -3.0], requires_grad=True)
    dft(log_probs).sum().backward()
    same(log_probs.grad, -log_probs.detach().exp())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula(gamma):
    p = probabilities()
    same(focal(log_prob(LOGITS, LABELS), gamma), -((1 - p) ** gamma) * np.log(p))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_finite_gradient_where_nothing_is_left_to_learn(gamma):
    log_probs = torch.tensor([0.0, -1e-9, -1e-4], requires_grad=True)
    losses = focal(log_probs, gamma)
    losses.sum().backward()
    assert log_probs.grad.isfinite().all()
    assert losses.abs().max() < 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_torch_s(smoothing):
    same(smoothed_cross_entropy(LOGITS, LABELS, smoothing), flat_cross_entropy(label_smoothing=smoothing))


def test_label_loss_takes_what_the_configuration_says():
    log_probs = log_prob(LOGITS, LABELS)
    for settings, name, expected in (
        ({}, "cross_entropy", cross_entropy(log_probs)),
        ({}, "dft", dft(log_probs)),
        ({"focal_gamma": 3.0}, "focal", focal(log_probs, 3.0)),
        ({"label_smoothing": 0.2}, "cross_entropy", smoothed_cross_entropy(LOGITS, LABELS, 0.2)),
    ):
        same(label_loss(LOGITS, LABELS, name, TrainConfig(**settings)), expected)


def test_several_labels_take_torch_s_binary_cross_entropy():
    found = labels_loss(MANY, BINARY, "cross_entropy", TrainConfig(), ONE)
    same(found, functional.binary_cross_entropy_with_logits(MANY, BINARY, reduction="none").mean(-1))


def test_weights_of_labels_are_torch_s_pos_weight():
    positive = torch.tensor([0.5, 1.0, 3.0, 10.0])
    found = labels_loss(MANY, BINARY, "cross_entropy", TrainConfig(), positive)
    plain = functional.binary_cross_entropy_with_logits(MANY, BINARY, pos_weight=positive, reduction="none")
    same(found, plain.mean(-1))


def test_the_binary_focal_loss_is_its_formula():
    p = 1 / (1 + np.exp(-MANY.numpy().astype(np.float64)))
    p = np.where(BINARY.numpy() == 1, p, 1 - p)
    same(labels_loss(MANY, BINARY, "focal", TrainConfig(focal_gamma=2.0), ONE), (-((1 - p) ** 2) * np.log(p)).mean(-1))


def test_losses_of_scores_are_written_out_by_hand():
    scores, targets = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([0.5, 1.0, 2.0])
    same(score_loss(scores, targets, "mse", TrainConfig()), [0.25, 0.0, 9.0])
    same(score_loss(scores, targets, "mae", TrainConfig()), [0.5, 0.0, 3.0])
    same(score_loss(scores, targets, "huber", TrainConfig(huber_delta=1.0)), [0.125, 0.0, 2.5])
    same(score_loss(scores, targets, "huber", TrainConfig(huber_delta=2.0)), [0.125, 0.0, 4.0])


def test_class_weights_as_weights_of_rows_are_torch_s_weight():
    weight = torch.linspace(0.5, 3.5, CLASSES)
    rows, total = weight[LABELS], weight[LABELS].sum()
    found = mean_terms(cross_entropy(log_prob(LOGITS, LABELS)), rows, total).sum()
    same(found, functional.cross_entropy(LOGITS.flatten(0, 1), LABELS.flatten(), weight=weight))


def test_parts_of_a_step_add_up_to_its_weighted_mean():
    losses, weights = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 0.0, 2.0, 0.5])
    parts = [mean_terms(losses[one], weights[one], weights.sum()).sum() for one in (slice(2), slice(2, 4))]
    assert float(sum(parts)) == pytest.approx(np.average(losses.numpy(), weights=weights.numpy()))


def test_what_has_no_weight_may_even_be_infinite():
    found = mean_terms(torch.tensor([1.0, torch.inf, torch.nan]), torch.tensor([2.0, 0.0, 0.0]), torch.tensor(2.0))
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_a_step_without_weight_has_no_loss():
    assert mean_terms(torch.ones(3), torch.zeros(3), torch.tensor(0.0)).tolist() == [0.0, 0.0, 0.0]
