"""The trainer computes TRL's loss from the trained positions alone, in float32, and writes no pickle."""

import json
import math

import pytest
import torch
import trl.kernels.chunked_logprob as chunked
import trl.trainer.utils
from datasets import Dataset
from peft import get_peft_model_state_dict
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from trl import SFTTrainer

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.config import TrainConfig
from peftkit.errors import ConfigError, TrainingError
from peftkit.kernels.loss_head import LabelLogProbs
from peftkit.model.load import resolved_dtype
from peftkit.train.arguments import training_arguments
from peftkit.train.callbacks import MetricsCallback
from peftkit.train.trainer import training_dataset

from ..stages import Stages, make_visible

FAST = ("model.quantization=none", "model.dtype=float32", "train.gradient_accumulation_steps=1", "adapter.r=4")


@pytest.fixture
def run(small):
    return Stages.of([*small, *FAST])


def a_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def full_logits_loss(model, batch):
    """Compute the mean cross-entropy over label positions from all logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)


def gradients(model):
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


def test_loss_and_gradients_are_those_of_full_logits(run, tmp_path):
    trainer = run.trainer(make_visible(run.adapted()), tmp_path)
    batch = a_batch(trainer)
    model = trainer.model.train()
    ours = trainer.compute_loss(model, dict(batch))
    ours.backward()
    our_gradients = gradients(model)
    plain = full_logits_loss(model, batch)
    plain.backward()
    plain_gradients = gradients(model)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)
    assert our_gradients.keys() == plain_gradients.keys() == trained(model).keys()
    for name, value in plain_gradients.items():
        assert value.abs().max() > 0, name
        torch.testing.assert_close(our_gradients[name], value, atol=1e-5, rtol=1e-4)


def test_losses_are_those_of_trl_alone(run, tmp_path):
    ours = [line["loss"] for line in run.train(run.adapted(), tmp_path / "ours")]
    arguments = training_arguments(run.config.train, tmp_path / "theirs", resolved_dtype(run.config.model))
    theirs = SFTTrainer(
        run.adapted(), arguments, train_dataset=training_dataset(run.data.train), processing_class=run.encoder.tokenizer
    )
    theirs.train()
    logged = [line["loss"] for line in theirs.state.log_history if "loss" in line]
    assert ours == pytest.approx(logged, abs=1e-5)


def test_only_trained_positions_are_projected(run, tmp_path, monkeypatch):
    rows = []
    original = LabelLogProbs.apply

    def counting(hidden, *args):
        rows.append(len(hidden))
        return original(hidden, *args)

    monkeypatch.setattr(LabelLogProbs, "apply", counting)
    trainer = run.trainer(run.adapted(), tmp_path)
    batch = a_batch(trainer)
    trainer.compute_loss(trainer.model, dict(batch))
    label_positions = int((batch["labels"][:, 1:] != -100).sum())
    assert rows == [label_positions]
    assert 0 < label_positions < batch["labels"].numel() / 4


def test_trl_still_has_the_function_that_is_stepped_around(run, tmp_path):
    """A TRL that renames it would project every position again; this must be seen."""
    before = trl.trainer.utils._use_triton
    assert before is chunked._use_triton
    assert before(torch.device("cpu")) is False
    inside = []
    trainer = run.trainer(run.adapted(), tmp_path)
    batch = a_batch(trainer)
    trainer.model.register_forward_pre_hook(lambda *_: inside.append(trl.trainer.utils._use_triton))
    trainer.compute_loss(trainer.model, dict(batch))
    assert [function(torch.device("cpu")) for function in inside] == [True]
    assert trl.trainer.utils._use_triton is before
    trainer.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.compute_loss(trainer.model, dict(batch))
    assert trl.trainer.utils._use_triton is before


class Dtypes(TrainerCallback):
    """Notes the dtypes of the adapter, its gradients and its optimizer's state after a step."""

    def __init__(self):
        self.seen = {"weights": set(), "gradients": set(), "state": set()}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen["weights"] |= {value.dtype for value in trained(model).values()}
        self.seen["gradients"] |= {value.grad.dtype for value in trained(model).values()}

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.seen["state"] |= {
            tensor.dtype
            for entry in optimizer.state.values()
            for name, tensor in entry.items()
            if name in ("exp_avg", "exp_avg_sq")
        }


def trained(model):
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_adapter_and_its_state_are_float32_on_a_quantized_base_in_bfloat16(small, tmp_path, quantization):
    words = (f"model.quantization={quantization}", "model.dtype=bfloat16", "train.max_steps=1", "adapter.r=4")
    run = Stages.of([*small, *words])
    model = run.adapted()
    names = trained(model).keys()
    dtypes = Dtypes()
    run.trainer(model, tmp_path, [dtypes]).train()
    assert dtypes.seen == {"weights": {torch.float32}, "gradients": {torch.float32}, "state": {torch.float32}}
    assert trained(model).keys() == names


def test_trl_alone_casts_the_adapter_of_a_quantized_base_to_bfloat16(small, tmp_path):
    """When this fails, TRL has changed, and putting the float32 values back may not be needed any more."""
    run = Stages.of([*small, "model.quantization=nf4", "model.dtype=bfloat16", "adapter.r=4"])
    arguments = training_arguments(run.config.train, tmp_path, resolved_dtype(run.config.model))
    dataset = training_dataset(run.data.train)
    model = run.adapted()
    SFTTrainer(model, arguments, train_dataset=dataset, processing_class=run.encoder.tokenizer)
    assert {value.dtype for value in trained(model).values()} == {torch.bfloat16}


def test_a_checkpoint_holds_the_adapter_and_what_training_needs_and_no_pickle(run, tmp_path):
    model = run.adapted()
    run.train(model, tmp_path)
    folders = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert folders == ["checkpoint-0", "checkpoint-4"]
    last = tmp_path / "checkpoints" / "checkpoint-4"
    state = ["manifest.json", "state.json", "state.safetensors", "trainer_state.json"]
    assert sorted(file.name for file in last.iterdir()) == [PEFT_CONFIG, WEIGHTS, *state]
    everything = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in everything if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    from safetensors.torch import load_file

    saved = load_file(last / WEIGHTS)
    held = get_peft_model_state_dict(model)
    assert saved.keys() == held.keys()
    assert all(torch.equal(saved[name], held[name]) for name in saved)
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] == 4


def padding(run, tmp_path, group):
    run.config = run.config.model_copy(update={"train": run.config.train.model_copy(update={"group_by_length": group})})
    batches = run.trainer(run.adapted(), tmp_path).get_train_dataloader()
    return sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)


def test_batches_of_like_length_have_less_padding(run, tmp_path):
    for place, example in enumerate(run.data.train):
        example.prompt_ids[:] = example.prompt_ids[: 20 + 40 * (place % 3)]
    grouped, random = padding(run, tmp_path, True), padding(run, tmp_path, False)
    assert 0 <= grouped < random / 2


@pytest.mark.parametrize("name", ["learning_rat", "use_gpu"])
def test_an_unknown_argument_of_trl_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"train\.extra\.{name}"):
        training_arguments(TrainConfig(extra={name: 1}), tmp_path, torch.float32)


def test_a_known_argument_of_trl_wins(tmp_path):
    arguments = training_arguments(
        TrainConfig(extra={"adam_beta2": 0.95, "learning_rate": 3.0}), tmp_path, torch.float32
    )
    assert (arguments.adam_beta2, arguments.learning_rate) == (0.95, 3.0)


@pytest.mark.parametrize("key", ["optim", "lr_scheduler_type"])
def test_a_value_that_trl_refuses_is_a_configuration_error(tmp_path, key):
    with pytest.raises(ConfigError, match=r"train\.\*.*mine"):
        training_arguments(TrainConfig(**{key: "mine"}), tmp_path, torch.float32)


@pytest.mark.parametrize(("dtype", "flags"), [("float32", (0, 0)), ("bfloat16", (1, 0)), ("float16", (0, 1))])
def test_arguments_say_what_the_configuration_says(tmp_path, dtype, flags):
    config = TrainConfig(
        learning_rate=1e-3, max_steps=0, warmup_fraction=1, save_steps=7, seed=5, group_by_length=False
    )
    arguments = training_arguments(config, tmp_path, getattr(torch, dtype))
    assert (arguments.bf16, arguments.fp16) == flags
    assert (arguments.learning_rate, arguments.max_steps, arguments.seed) == (1e-3, -1, 5)
    assert (arguments.save_strategy, arguments.save_steps) == ("steps", 7)
    assert arguments.train_sampling_strategy == "random"
    assert arguments.get_warmup_steps(1000) == 999  # 1 itself would be one step
    assert arguments.report_to == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training_and_leaves_its_line(run, tmp_path, value):
    model = run.adapted()

    class Breaks(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                with torch.no_grad():
                    next(iter(trained(model).values())).fill_(value)

    metrics = tmp_path / "metrics.jsonl"
    watch = MetricsCallback(metrics, lambda line, total: None)
    with pytest.raises(TrainingError, match="step 3") as raised:
        run.trainer(model, tmp_path, [watch, Breaks()]).train()
    assert raised.value.exit_code == 14
    lines = [json.loads(line, parse_constant=refuse) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] in ("nan", "inf")
    assert watch.last == {**lines[-1], "loss": lines[1]["loss"], "grad_norm": lines[1]["grad_norm"]}


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_lines_of_metrics_have_the_documented_keys_and_count_the_data(small, tmp_path):
    run = Stages.of([*small, *FAST, "train.max_steps=0", "data.train_rows=18", "train.num_train_epochs=2"])
    seen = []
    metrics = tmp_path / "metrics.jsonl"
    watch = MetricsCallback(metrics, lambda line, total: seen.append((line["step"], total)))
    run.trainer(run.adapted(), tmp_path, [watch]).train()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    documented = "step epoch loss learning_rate grad_norm token_accuracy tokens seconds tokens_per_second memory"
    assert {tuple(line) for line in lines} == {tuple(documented.split())}
    assert seen == [(step, 10) for step in range(1, 11)]
    assert lines[-1] == watch.last
    tokens = [line["tokens"] for line in lines]
    total = sum(map(len, run.data.train))
    assert tokens == sorted(tokens)
    assert (tokens[4], tokens[9]) == (total, 2 * total)
    assert lines[-1]["epoch"] == 2
    assert all(line["seconds"] >= 0 and line["memory"] > 0 for line in lines)


def test_the_last_step_is_logged_whatever_the_interval(small, tmp_path):
    run = Stages.of([*small, *FAST, "train.logging_steps=3", "train.max_steps=5"])
    lines = run.train(run.adapted(), tmp_path)
    assert [line["step"] for line in lines] == [1, 3, 5]


def test_one_seed_gives_the_same_losses_and_bytes_and_another_does_not(small, tmp_path):
    words = [*small, *FAST, "adapter.lora_dropout=0.1"]
    losses, weights = [], []
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        run = Stages.of([*words, f"train.seed={seed}"])
        torch.rand(7)  # whatever was drawn before must not matter
        losses.append([line["loss"] for line in run.train(run.adapted(), tmp_path / name)])
        weights.append((tmp_path / name / "checkpoints" / "checkpoint-4" / WEIGHTS).read_bytes())
    assert losses[0] == losses[1] != losses[2]
    assert weights[0] == weights[1] != weights[2]


def test_the_dataset_trains_the_completion_alone(run):
    dataset = training_dataset(run.data.train[:3])
    assert isinstance(dataset, Dataset)
    for row, example in zip(dataset, run.data.train, strict=False):
        assert row["input_ids"] == example.prompt_ids + example.completion_ids
        assert row["labels"] == [-100] * len(example.prompt_ids) + example.completion_ids
        assert row["length"] == len(example)
