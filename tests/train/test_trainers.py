"""The trainers of all families: losses fall, and are means over the optimizer step whatever batches it is made of."""

import json

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import Seq2SeqTrainer, Trainer
from trl import SFTTrainer

from peftkit.adapter.adalora import orthogonality_penalty
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.errors import ConfigError, DataError
from peftkit.train import shared
from peftkit.train.batches import rows_trained
from peftkit.train.callbacks import MetricsCallback

from .families import Run, configuration, examples, falls, trained

FAMILIES = ("causal", "head", "seq2seq")
REGRESSION = {"kind": "regression", "labels": None}
MULTI_LABEL = {"multi_label": True}


@pytest.mark.parametrize(("family", "kind"), [("causal", SFTTrainer), ("head", Trainer), ("seq2seq", Seq2SeqTrainer)])
def test_each_family_has_its_library_s_trainer_and_learns(tmp_path, family, kind):
    run = Run(tmp_path, family, configuration(family))
    assert isinstance(run.trainer, kind)
    assert falls(run.losses())


@pytest.mark.parametrize(
    ("family", "task", "settings"),
    [
        ("causal", {}, {"loss": "focal"}),
        ("causal", {}, {"label_smoothing": 0.1}),
        ("head", {}, {"loss": "dft"}),
        ("head", {}, {"loss": "focal", "focal_gamma": 0.5}),
        ("head", {}, {"label_smoothing": 0.1}),
        ("head", MULTI_LABEL, {}),
        ("head", MULTI_LABEL, {"loss": "focal"}),
        ("head", REGRESSION, {}),
        ("head", REGRESSION, {"loss": "mae"}),
        ("head", REGRESSION, {"loss": "huber", "huber_delta": 0.3}),
        ("seq2seq", {}, {"loss": "focal"}),
        ("seq2seq", {}, {"label_smoothing": 0.1}),
    ],
)
def test_every_loss_falls(tmp_path, family, task, settings):
    assert falls(Run(tmp_path, family, configuration(family, task, **settings)).losses())


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_dft_makes_the_right_tokens_likelier(tmp_path, family):
    """Its own value, -p log p, rises at first: it is greatest where p is 1/e."""
    run = Run(tmp_path, family, configuration(family, loss="dft"))
    run.losses()
    accuracy = [line["mean_token_accuracy"] for line in run.trainer.state.log_history if "loss" in line]
    assert accuracy[-1] > accuracy[0] + 0.1


@pytest.mark.parametrize(
    ("family", "task", "settings"),
    [
        ("causal", {}, {}),
        ("causal", {}, {"loss": "focal"}),
        ("causal", {}, {"label_smoothing": 0.1}),
        ("head", {}, {}),
        ("head", MULTI_LABEL, {}),
        ("head", REGRESSION, {}),
        ("seq2seq", {}, {}),
        ("seq2seq", {}, {"label_smoothing": 0.1}),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path, family, task, settings, weighted):
    weights = [0.5, 2.0, 1.0, 3.0, 0.25, 1.0, 4.0, 1.5] if weighted else None
    found = []
    for size, steps in ((8, 1), (2, 4)):
        batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        config = configuration(family, task, **settings, **batches)
        found.append(Run(tmp_path, family, config, examples(family, config, 8, weights)).gradients())
    assert_same(*found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("weight", "times"), [(0.0, 0), (2.0, 2)])
def test_a_row_s_weight_is_how_often_it_counts(tmp_path, family, weight, times):
    config = configuration(family, per_device_train_batch_size=16)
    rows = examples(family, config, 6)
    weighed = Run(tmp_path, family, config, examples(family, config, 6, [1, 1, weight, 1, 1, 1]))
    repeated = Run(tmp_path, family, config, [*rows[:2], *[rows[2]] * times, *rows[3:]])
    assert_same(weighed.gradients(), repeated.gradients())


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_all_alike_change_nothing(tmp_path, family):
    config = configuration(family)
    alike = Run(tmp_path, family, config, examples(family, config, 8, [3.0] * 8))
    assert_same(alike.gradients(), Run(tmp_path, family, config, examples(family, config, 8)).gradients())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert any(value.abs().max() > 1e-3 for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)


def test_dft_is_trl_s(tmp_path):
    config = configuration("causal", loss="dft", max_steps=4)
    ours = Run(tmp_path, "causal", config).losses()
    theirs = Run(tmp_path, "causal", configuration("causal", max_steps=4))
    theirs.trainer.args.loss_type = "dft"
    assert ours == pytest.approx(theirs.losses(), rel=1e-5)


def test_smoothed_losses_of_models_that_write_are_torch_s(tmp_path):
    run = Run(tmp_path, "causal", configuration("causal", label_smoothing=0.1))
    batch = next(iter(run.trainer.get_train_dataloader()))
    model = run.trainer.model.train()
    ours = run.trainer.compute_loss(model, dict(batch))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:].flatten()
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, label_smoothing=0.1)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    assert run.trainer._metrics["train"]["mean_token_accuracy"][0] == pytest.approx(
        (logits[:, :-1].flatten(0, 1).argmax(-1) == labels)[labels != -100].float().mean().item()
    )


def test_packed_rows_take_other_losses_but_no_weights(tmp_path):
    settings = {"packing": True, "max_length": 256}
    config = configuration("causal", loss="focal", **settings)
    assert falls(Run(tmp_path, "causal", config).losses())
    config = configuration("causal", **settings)
    with pytest.raises(ConfigError, match=r"packed cannot have weights"):
        Run(tmp_path, "causal", config, examples("causal", config, 4, [1.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize("family", ["head", "seq2seq"])
def test_packing_is_for_models_that_write_on(tmp_path, family):
    with pytest.raises(ConfigError, match=r"train\.packing=true is for decoders"):
        Run(tmp_path, family, configuration(family, packing=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_of_like_length_have_less_padding(tmp_path, family):
    padding = []
    for group in (True, False):
        config = configuration(family, group_by_length=group, per_device_train_batch_size=4)
        rows = examples(family, config, 48)
        batches = Run(tmp_path, family, config, rows).trainer.get_train_dataloader()
        padding.append(sum(int((batch["attention_mask"] == 0).sum()) for batch in batches))
    assert padding[0] < padding[1] / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_are_padded_on_the_right(tmp_path, family):
    batch = next(iter(Run(tmp_path, family, configuration(family)).trainer.get_train_dataloader()))
    assert batch["attention_mask"][:, 0].all()
    assert not batch["attention_mask"].all()


def test_the_decoder_reads_the_labels_moved_by_one(tmp_path):
    batch = next(iter(Run(tmp_path, "seq2seq", configuration("seq2seq")).trainer.get_train_dataloader()))
    assert (batch["decoder_input_ids"][:, 0] == 0).all()
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1].clamp(min=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_holds_the_adapter_and_the_state_of_the_training_alone(tmp_path, family):
    run = Run(tmp_path, family, configuration(family, max_steps=2, save_steps=2))
    run.losses()
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    names = [PEFT_CONFIG, WEIGHTS, "manifest.json", "state.json", "state.safetensors", "trainer_state.json"]
    assert files == [f"checkpoints/checkpoint-{step}/{name}" for step in (0, 2) for name in names]
    held = get_peft_model_state_dict(run.model)
    saved = load_file(tmp_path / "checkpoints" / "checkpoint-2" / WEIGHTS)
    assert saved.keys() == held.keys()
    assert all(torch.equal(saved[name], held[name]) for name in saved)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_adapters_stay_float32_on_quantized_models(tmp_path, family, quantization):
    model = {"quantization": quantization, "dtype": "bfloat16"}
    run = Run(tmp_path, family, configuration(family, model=model, max_steps=1))
    before = {name: value.clone() for name, value in trained(run.model).items()}
    run.losses()
    after = trained(run.model)
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert after.keys() == before.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_lines_of_metrics_count_what_was_read(tmp_path, family):
    config = configuration(family, max_steps=4)
    rows = examples(family, config, 16)
    watch = MetricsCallback(tmp_path / "metrics.jsonl")
    Run(tmp_path, family, config, rows, [watch]).trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    read = sum(len(row) if family == "causal" else len(row.prompt_ids) for row in rows)
    assert [line["tokens"] for line in lines][1::2] == [read, 2 * read]
    assert ("token_accuracy" in lines[0]) == (family != "head")
    if family == "seq2seq":
        assert 0 <= lines[0]["token_accuracy"] <= 1
    common = ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "seconds", "tokens_per_second", "memory"]
    assert [name for name in lines[0] if name != "token_accuracy"] == common


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(tmp_path, family):
    found = []
    for asked in (False, True):
        found.append(Run(tmp_path, family, configuration(family, gradient_checkpointing=asked)).gradients())
    assert_same(*found)


@pytest.mark.parametrize("family", FAMILIES)
def test_neftune_adds_noise_to_the_embeddings_while_training_alone(tmp_path, family):
    plain = Run(tmp_path, family, configuration(family, max_steps=2)).losses()
    noisy = Run(tmp_path, family, configuration(family, max_steps=2, neftune_noise_alpha=5))
    losses = noisy.losses()
    assert losses[0] != plain[0]
    assert losses[0] == pytest.approx(plain[0], rel=0.5)
    reads = noisy.model.get_encoder() if family == "seq2seq" else noisy.model.get_base_model()
    embeddings = reads.get_input_embeddings().train()
    ids = torch.arange(5)[None]
    assert torch.equal(embeddings(ids), embeddings(ids))


@pytest.mark.parametrize(("weight", "said"), [(-1.0, "row 1: .*=-1.0"), (float("nan"), "row 1: .*=nan")])
def test_a_weight_that_is_none_is_refused(tmp_path, weight, said):
    config = configuration("causal")
    with pytest.raises(DataError, match=said):
        Run(tmp_path, "causal", config, examples("causal", config, 2, [1.0, weight]))


def test_weights_that_are_all_zero_are_refused(tmp_path):
    config = configuration("causal")
    with pytest.raises(ConfigError, match="all training rows have weight 0"):
        Run(tmp_path, "causal", config, examples("causal", config, 2, [0.0, 0.0]))


@pytest.mark.parametrize("family", ["head", "seq2seq"])
def test_an_argument_of_trl_alone_is_refused_elsewhere(tmp_path, family):
    with pytest.raises(ConfigError, match=r"train\.extra\.packing_strategy is not an argument of transformers'"):
        Run(tmp_path, family, configuration(family, extra={"packing_strategy": "bfd"}))


@pytest.mark.parametrize("family", FAMILIES)
def test_adalora_gets_its_penalty_once_a_step_and_moves_ranks_after_each(tmp_path, family, monkeypatch):
    config = configuration(family, adapter={"method": "adalora", "r": 4}, max_steps=3, gradient_accumulation_steps=2)
    steps = []
    monkeypatch.setattr(shared, "after_optimizer_step", lambda model, step: steps.append(step))
    Run(tmp_path, family, config).losses()
    assert steps == [0, 1, 2]
    with_penalty = Run(tmp_path, family, config).gradients()
    monkeypatch.setattr(shared, "orthogonality_penalty", lambda model: None)
    run = Run(tmp_path, family, config)
    without = run.gradients()
    for value in trained(run.model).values():
        value.grad = None
    orthogonality_penalty(run.model).backward()
    for name, value in trained(run.model).items():
        if value.grad is not None:
            torch.testing.assert_close(with_penalty[name], without[name] + value.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_steps": 3, "gradient_accumulation_steps": 2}, "48 of 1,000"),
        ({"max_steps": 125, "gradient_accumulation_steps": 1}, "1,000"),
        ({"max_steps": 0}, "1,000"),
        ({"max_steps": 3, "packing": True}, "1,000"),
    ],
)
def test_rows_that_a_run_takes_are_told_from_those_there_are(settings, said):
    assert rows_trained(configuration("causal", **settings).train, 1_000) == said
