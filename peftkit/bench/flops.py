"""The arithmetic that a training step needs by its formula, however it is really done.

With N parameters in the linear layers that a token passes, a token takes 2N operations forwards and 2N for the
gradient of what went in; the frozen weights need no gradient of their own, and that of a small adapter is left out:
4N. The output layer counts for trained tokens only. Attention in a row of T tokens takes, for each of them and each
layer, 2Td operations forwards as a token sees only those before it (d: heads times their size), and twice that
backwards. What is computed a second time in the backward pass adds 2N and 2Td of the layers that recompute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """What of a model decides its arithmetic.

    Attributes:
        layers: Number of layers.
        linear: Parameters of the linear layers in all of them, without adapters.
        head: Parameters of the output layer.
        width: Heads times their size.
    """

    layers: int
    linear: int
    head: int
    width: int

    def needed(self, tokens: int, trained: int, squares: int) -> float:
        """Return the operations that training on some rows needs.

        Args:
            tokens: All tokens of the rows.
            trained: Tokens that are trained.
            squares: Sum of the squared lengths of the rows.
        """
        return 4.0 * (self.linear * tokens + self.head * trained) + 6.0 * squares * self.width * self.layers

    def again(self, tokens: int, squares: int, layers: int) -> float:
        """Return the operations of running some layers forwards a second time."""
        whole = 2.0 * self.linear * tokens + 2.0 * squares * self.width * self.layers
        return whole * layers / self.layers


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the shape of a model without an adapter, by its configuration: nothing is loaded for it.

    Raises:
        ValueError: It is no decoder with layers that are alike.
    """
    import torch
    from transformers import AutoModelForCausalLM

    settings = model.config.get_text_config()
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config)
    head = plain.get_output_embeddings()
    linear = sum(one.weight.numel() for one in plain.modules() if isinstance(one, torch.nn.Linear) and one is not head)
    heads = settings.num_attention_heads
    size = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    return Shape(settings.num_hidden_layers, linear, 0 if head is None else head.weight.numel(), heads * size)
