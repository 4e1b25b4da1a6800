"""A step that is not finite is not taken: the weights stay, and step, rows and layer are named."""

import pytest
import torch

from peftkit.errors import NotFiniteError
from peftkit.train.callbacks import MetricsCallback
from peftkit.train.spikes import Spikes

from .families import Run, configuration, examples, trained
from .proof_finite import NAN, TARGETS, At, bad_output, layer, lines_of, run_with


def test_the_rows_are_those_of_the_batch(tmp_path):
    """One row alone gives a bad loss: it is among those that are named, and without it nothing stops."""
    config = configuration("causal", max_steps=4, per_device_train_batch_size=4)
    rows = examples("causal", config)
    bad = rows[5].prompt_ids[:]

    def act(model, optimizer):
        def spoil(module, inputs, output):
            held = [row[: len(bad)].tolist() == bad for row in inputs[0]]
            return torch.where(torch.tensor(held)[:, None, None], NAN, output)

        layer(model, "embed_tokens").register_forward_hook(spoil)

    rows = [one for one in rows if one.prompt_ids != bad] + [rows[5]]
    run = Run(tmp_path, "causal", config, rows, [At(1, act)])
    with pytest.raises(NotFiniteError, match=r"output is not finite is 'model.embed_tokens'; .*row 5[,;]"):
        run.trainer.train()
    rest = Run(tmp_path / "rest", "causal", config, rows[:-1], [At(1, act)])
    rest.trainer.train()
    assert rest.trainer.state.global_step == 4


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free_adamw", "muon"])
def test_a_few_bad_steps_can_be_left_out(optimizer, tmp_path):
    class Once(At):
        def on_step_end(self, *args, **kwargs):
            for module in self.model.modules():
                module._forward_hooks.clear()

    schedule = {"lr_scheduler_type": "constant"}
    config = configuration("causal", adapter=TARGETS, max_steps=5, on_nan="skip", optim=optimizer, **schedule)
    at = Once(3, bad_output(NAN))
    run = Run(tmp_path, "causal", config, callbacks=[at, MetricsCallback(tmp_path / "metrics.jsonl")])
    run.trainer.train()
    weights = at.before
    for name, value in weights[4].items():  # a schedule-free optimizer rounds where it goes to its averages and back
        torch.testing.assert_close(value, weights[3][name], rtol=0, atol=1e-7 if "free" in optimizer else 0)
    assert not any(torch.equal(weights[4][name], value) for name, value in weights[5].items() if "lora_B" in name)
    assert run.trainer.skipped_steps == 1
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "not_finite" in line] == [3]
    assert lines[2]["loss"] == "nan"
    assert all(isinstance(line["loss"], float) for line in lines if line["step"] != 3)


def test_too_many_of_them_stop(tmp_path):
    run, _ = run_with(tmp_path, bad_output(NAN), step=2, on_nan="skip", max_nan_steps=2)
    with pytest.raises(NotFiniteError, match=r"^step 4 is not finite: .*\(2 steps were left out before\)"):
        run.trainer.train()


@pytest.mark.parametrize("family", ["head", "seq2seq"])
def test_other_kinds_of_models_are_guarded(family, tmp_path):
    def act(model, optimizer):
        for value in trained(model).values():
            value.register_hook(lambda gradient: gradient * NAN)

    config = configuration(family, max_steps=4)
    run = Run(tmp_path, family, config, callbacks=[At(2, act)])
    with pytest.raises(NotFiniteError, match=r"^step 2 is not finite: the loss is finite; .*; its rows are row \d+"):
        run.trainer.train()


def test_packed_rows_are_named_by_where_they_come_from(tmp_path):
    config = configuration("causal", adapter=TARGETS, max_steps=2, packing=True, max_length=64)
    run = Run(tmp_path, "causal", config, callbacks=[At(1, bad_output(NAN))])
    with pytest.raises(NotFiniteError, match=r"its rows are row \d+, row \d+"):
        run.trainer.train()


def test_jumps_of_the_loss_are_seen_and_noise_is_not():
    drawn = torch.Generator().manual_seed(0)
    noise = [2 + 0.2 * one for one in torch.randn(2000, generator=drawn).tolist()]
    spikes = Spikes()
    assert not any(spikes.look(one) for one in noise)
    assert spikes.look(9.0)
    assert 1.8 < spikes.usual < 2.2
    assert not spikes.look(2.1)
    falling = Spikes()
    assert not any(falling.look(5 * 0.99**step) for step in range(300))
    early = Spikes()
    assert not any(early.look(one) for one in [1.0] * 19 + [50.0])
    assert not early.look("nan")
