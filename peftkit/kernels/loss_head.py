"""The loss head on a processor: log-probabilities of labels, and their gradient made in the same pass.

The gradient of a label's log-probability by the hidden state is `W[label] - sum_v p_v W_v`, whatever the loss makes of
the log-probability afterwards. So it is computed while the logits are there, [tokens, hidden_size], and the backward
pass only scales it: there is no second projection onto the vocabulary, which is the costliest product of a small model.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.kernels import ChunkedLogProbFunction

TILE = 2**23
"""Logits that are held at once: 16 MiB in bfloat16, and twice that in float32."""
_OUTPUTS = frozenset(("log_probs", "entropy", "is_top1"))


class LabelLogProbs(torch.autograd.Function):
    """Takes the arguments of TRL's `ChunkedLogProbFunction`, and gives its results; the first alone has a gradient.

    The vocabulary is not cut: each gradient is one product, summed up in float32 and rounded once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = (),
    ) -> tuple[torch.Tensor | None, ...]:
        """Return log-probability, entropy, None, None, and whether the label is the likeliest token, [tokens] each.

        Args:
            ctx: Of autograd.
            hidden: [tokens, hidden_size].
            weight: [vocabulary, hidden_size]; frozen.
            bias: [vocabulary]; frozen.
            targets: Labels, [tokens].
            temperature: Divides the logits.
            chunk_size: Not used.
            softcap: Keeps the logits within this, as `softcap * tanh(logits / softcap)`.
            logit_scale: Multiplies the logits before that.
            outputs: Names of what is wanted beside the log-probabilities.
        """
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        tokens, wanted = len(hidden), bool(ctx.needs_input_grad[0])
        log_probs, entropy = (hidden.new_empty(tokens, dtype=torch.float32) for _ in range(2))
        is_top1 = torch.empty_like(targets, dtype=torch.bool)
        slopes = hidden.new_empty(hidden.shape, dtype=dtype) if wanted else None
        step = max(1, TILE // len(weight))
        for part in (slice(start, min(start + step, tokens)) for start in range(0, tokens, step)):
            raw = torch.nn.functional.linear(hidden[part].to(dtype), weight, bias).float().mul_(logit_scale)
            bent = None
            if softcap is None:
                logits = raw.div(temperature)
            else:
                bent = raw.div_(softcap).tanh_()
                logits = bent * (softcap / temperature)
            label = targets[part, None]
            log_all = logits.log_softmax(-1)
            log_probs[part] = log_all.gather(-1, label).squeeze(-1)
            if "is_top1" in outputs:
                is_top1[part] = log_all.argmax(-1) == targets[part]
            likely = log_all.exp()
            if "entropy" in outputs:
                entropy[part] = -log_all.mul_(likely).sum(-1)
            if slopes is not None:
                above = likely.neg_().scatter_add_(-1, label, torch.ones_like(label, dtype=torch.float32))
                if bent is not None:
                    above.mul_(1 - bent.square())
                torch.mm(above.mul_(logit_scale / temperature).to(dtype), weight, out=slopes[part])
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(entropy, is_top1)
        return (
            log_probs,
            entropy if "entropy" in outputs else None,
            None,
            None,
            is_top1 if "is_top1" in outputs else None,
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Scale the gradients that are there already."""
        (slopes,) = ctx.saved_tensors
        return (gradients[0].unsqueeze(-1).to(slopes.dtype) * slopes, *[None] * 8)


class OnProcessor:
    """In the place of TRL's function: ours where it runs on a processor and fits, TRL's elsewhere."""

    @staticmethod
    def apply(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *more: Any) -> Any:
        """Call one of them."""
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        ours = is_processor(hidden.device) and not trained and _OUTPUTS.issuperset(more[-1])
        function = LabelLogProbs if ours else ChunkedLogProbFunction
        return function.apply(hidden, weight, bias, *more)


def is_processor(device: torch.device) -> bool:
    """Whether tensors of this device are computed on by the processor."""
    return device.type == "cpu"
