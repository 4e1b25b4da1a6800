"""The smallest ranks at which an adapter still answers as it does in full, measured on texts that it was not taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from peftkit.adapter.trained import Trained, open_adapter
from peftkit.data.examples import Example
from peftkit.errors import AdapterError, ConfigError, PeftkitError
from peftkit.evaluate.ask import prompt_example
from peftkit.merge.lora_file import Change, LoraFile
from peftkit.merge.low_rank import Decomposed, Factors, decompose
from peftkit.merge.stored import stored
from peftkit.ui import UI

if TYPE_CHECKING:
    import torch

EXAMPLES = 32
POSITIONS = 16
"""Most tokens of an answer that are compared."""
PACKAGE = "peft"
"""Whose documentation is read where the run's own rows cannot be had."""


@dataclass(frozen=True)
class Ranks:
    """The smallest ranks that were found.

    Attributes:
        ranks: Of each module.
        kl: Mean KL divergence from the full adapter at these ranks and in the dtype that is stored, in nats.
        positions: Number of distributions that were compared.
        texts: Which texts they are of: `held-out rows` or `documentation`.
        found: The decomposition of each module's change.
    """

    ranks: Mapping[str, int]
    kl: float
    positions: int
    texts: str
    found: Mapping[str, Decomposed]


def smallest_ranks(file: LoraFile, dtype: str, budget: float, ui: UI) -> Ranks:
    """Find the smallest number of directions, over all modules, whose answers are within a budget of the full ones.

    One threshold on singular values holds for all modules, and each keeps one direction at least. The threshold is
    found by bisection over the values that there are; the answer is one that was measured.

    Args:
        file: The adapter, which must have a passport.
        dtype: How it will be stored; its rounding counts.
        budget: Largest mean KL divergence of the cut adapter's distributions from the full one's, in nats.
        ui: Where progress is shown.

    Raises:
        AdapterError: The adapter has no passport, or storing it in the dtype takes more than the budget by itself.
        ConfigError: The model answers with scores, which have no distribution.
    """
    if file.passport is None:
        raise AdapterError(
            f"the adapter in '{file.folder}' has no passport, so its base model and rows are not known; give --rank a "
            "number"
        )
    if file.passport.config.task.kind == "regression":
        raise ConfigError("--rank auto compares distributions, and scores have none; give --rank a number")
    found = {name: decompose(change.scaled) for name, change in file.changes.items()}
    values = sorted((float(value) for one in found.values() for value in one.s[: one.numerical_rank]), reverse=True)
    trained = open_adapter(file.folder, ui.note)
    examples, texts = _texts(trained, ui)
    full = [_logits(trained, example) for example in examples]
    measured: dict[int, tuple[float, dict[str, int]]] = {}

    def kl(count: int) -> float:
        least = values[count - 1]
        ranks = {name: max(1, int((one.s >= least).sum())) for name, one in found.items()}
        cut = {name: cut_change(file.changes[name], one, ranks[name]) for name, one in found.items()}
        _set(trained, {name: stored(change, dtype) for name, change in cut.items()})
        measured[count] = _divergence(trained, examples, full), ranks
        return measured[count][0]

    low, high = 0, len(values)
    if (rounded := kl(high)) > budget:
        raise AdapterError(
            f"stored as {dtype} at its full ranks, the adapter is {rounded:.2g} nats a token away from what it was, "
            f"which is more than --kl {budget:g}; raise it, or take another --dtype"
        )
    with ui.progress("cuts tried", high.bit_length() + 1) as bar:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if kl(middle) <= budget else (middle, high)
            bar.to(len(measured), f"{high} directions")
    positions = sum(one.shape[0] for one in full)
    return Ranks(measured[high][1], measured[high][0], positions, texts, found)


def cut_change(change: Change, found: Decomposed, rank: int) -> Change:
    """Return the best approximation of that rank of a change, from its decomposition, with a scale of one.

    A change that has no higher rank keeps its own factors.
    """
    if rank >= change.factors.rank:
        return change
    cut = found.cut(rank)
    return Change(Factors(cut.b.float(), cut.a.float()), 1.0, change.embedding)


def _texts(trained: Trained, ui: UI) -> tuple[list[Example], str]:
    """Return held-out rows of the run that trained the adapter; documentation where there are none to be had."""
    from peftkit.data.documentation import documented
    from peftkit.data.prepare import prepare_data
    from peftkit.data.read import read_data
    from peftkit.recipe import load_installed_recipe

    config = trained.passport.config
    try:
        data = prepare_data(config, read_data(config, load_installed_recipe(config.recipe)), trained.encoder)
        held_out = [*data.test, *data.validation][:EXAMPLES]
        reason = "it held out none"
    except (PeftkitError, OSError) as error:
        held_out, reason = [], str(error)
    if held_out:
        if data.report["source"] != trained.passport.data["source"]:
            ui.warn("the data have changed since the run; some of these rows may be such as it was trained on")
        return held_out, "held-out rows"
    ui.warn(f"the rows of the run cannot be had ({reason}); answers to documentation are compared instead")
    texts = (one.body for one in documented([PACKAGE]) if one.body)
    room = config.evaluate.max_new_tokens
    return [prompt_example(trained.encoder, text, room=room) for text in islice(texts, EXAMPLES)], "documentation"


def _logits(trained: Trained, example: Example) -> torch.Tensor:
    """Return logits of what a model may answer, float32 of shape (positions, choices) on the CPU.

    Of a model that writes they are those of an answer's first tokens, each after the true ones before it; of a text
    without an answer those of its last tokens.
    """
    import torch

    model: Any = trained.model
    logits: torch.Tensor
    prompt = torch.tensor([example.prompt_ids], device=model.device)
    answer = torch.tensor([example.completion_ids], device=model.device, dtype=torch.long)
    with torch.inference_mode():
        if trained.family == "head":
            logits = model(input_ids=prompt, attention_mask=torch.ones_like(prompt)).logits[0]
            if trained.passport.config.task.multi_label:  # each label is there or not, whatever the others
                logits = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
            return logits.reshape(-1, logits.shape[-1]).float().cpu()
        if trained.family == "seq2seq":
            labels = answer if answer.numel() else prompt[:, :1]
            logits = model(input_ids=prompt, attention_mask=torch.ones_like(prompt), labels=labels).logits[0]
            return logits[:POSITIONS].float().cpu()
        ids = torch.cat([prompt.long(), answer], dim=1)
        first = max(0, prompt.shape[1] - 1) if answer.numel() else max(0, ids.shape[1] - POSITIONS)
        count = min(POSITIONS, answer.shape[1] or POSITIONS)
        keep = ids.shape[1] - first
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=keep).logits[
            0
        ]
        return logits[:count].float().cpu()


def _divergence(trained: Trained, examples: Sequence[Example], full: Sequence[torch.Tensor]) -> float:
    """Return the mean KL divergence of the model's distributions from the full adapter's, in nats."""
    total, count = 0.0, 0
    for example, before in zip(examples, full, strict=True):
        p = before.double().log_softmax(-1)
        q = _logits(trained, example).double().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
        count += before.shape[0]
    return max(0.0, total / count)


def _set(trained: Trained, changes: Mapping[str, Change]) -> None:
    """Let the model use other changes, of no higher rank than its own; the room that is left is zero."""
    import torch

    model: Any = trained.model.get_base_model()
    with torch.no_grad():
        for name, change in changes.items():
            layer = model.get_submodule(name)
            if change.embedding:
                a, b = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
            else:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            rank = change.factors.rank
            a.zero_()[:rank] = change.factors.a.to(a)
            b.zero_()[:, :rank] = change.factors.b.to(b)
            layer.scaling["default"] = change.scale
