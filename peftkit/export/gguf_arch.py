"""The architectures that are written as GGUF: names of tensors, order of rows, and what llama.cpp has to know.

llama.cpp turns neighbouring rows of a query or key together in Llama models, where transformers turns rows that stand
half a head apart; so those rows are written in another order (llama.cpp's converter does the same). Qwen's are not:
there llama.cpp rotates as transformers does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.errors import ModelError

if TYPE_CHECKING:
    import torch

_NAMES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}
_UNSEEN = {
    "qwen2": ("use_sliding_window",),
    "qwen3": ("use_sliding_window", "attention_bias"),
    "gpt2": ("scale_attn_by_inverse_layer_idx", "add_cross_attention"),
}
"""Switches of a configuration that llama.cpp's code for the architecture does not know."""
_TURNED = re.compile(r"\.self_attn\.([qk])_proj(\.|$)")
_TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


@dataclass(frozen=True)
class Architecture:
    """How models of one kind are written as GGUF.

    Attributes:
        name: llama.cpp's name of it.
        settings: The model's configuration.
        tied: Whether embeddings and output share their values.
    """

    name: str
    settings: Any
    tied: bool

    def tensor_name(self, name: str) -> str | None:
        """Return llama.cpp's name of a parameter, or of a module where `name` is one; None where it has none."""
        from gguf import MODEL_ARCH, get_tensor_name_map

        names = get_tensor_name_map(MODEL_ARCH[self.name.upper()], self.settings.num_hidden_layers)
        found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    def transposed(self, name: str) -> bool:
        """Whether a parameter is stored as (in, out), as GPT-2's are."""
        return self.name == "gpt2" and _TRANSPOSED.search(name) is not None

    def heads(self, name: str) -> int:
        """Return how many heads the rows of a parameter or module belong to, if they are written in another order.

        Returns:
            0 where the order stays.
        """
        found = _TURNED.search(name) if self.name == "llama" else None
        if found is None:
            return 0
        heads: int = self.settings.num_attention_heads if found[1] == "q" else self.settings.num_key_value_heads
        return heads

    def ordered(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Bring the rows of a parameter, or of a module's B, into llama.cpp's order.

        Args:
            name: The parameter's or module's name.
            rows: All of its rows, of shape (out,) or (out, columns).
        """
        heads = self.heads(name)
        if not heads:
            return rows
        half = len(rows) // heads // 2
        return rows.reshape(heads, 2, half, -1).transpose(1, 2).reshape(rows.shape).contiguous()


def architecture_of(settings: Any, *, tied: bool | None = None) -> Architecture:
    """Return how a model is written as GGUF.

    Args:
        settings: The model's configuration.
        tied: Whether embeddings and output share their values; None takes what the configuration says.

    Raises:
        ModelError: It is of a kind that is not written, or has a setting that llama.cpp would not see.
    """
    kind = settings.model_type
    if kind not in _NAMES:
        raise ModelError(
            f"{kind} models are not written as GGUF here, but {', '.join(_NAMES)} are; merge the adapter with "
            "`peftkit merge` and take llama.cpp's own convert_hf_to_gguf.py"
        )
    _require_plain(settings, kind)
    return Architecture(_NAMES[kind], settings, bool(settings.tie_word_embeddings) if tied is None else tied)


def _require_plain(settings: Any, kind: str) -> None:
    """Refuse settings that change what the model computes and that its GGUF has no word for."""
    rope = getattr(settings, "rope_parameters", None) or {}
    activation = settings.activation_function if kind == "gpt2" else settings.hidden_act
    usual = ("gelu_new", "gelu_pytorch_tanh") if kind == "gpt2" else ("silu",)
    wrong = None
    if rope.get("rope_type", "default") not in ("default", "linear", "llama3"):
        wrong = f"rope_type={rope['rope_type']}"
    elif rope.get("partial_rotary_factor", 1.0) != 1.0:
        wrong = f"partial_rotary_factor={rope['partial_rotary_factor']}"
    elif activation not in usual:
        wrong = f"the activation {activation}"
    else:
        wrong = next((f"{name}=true" for name in _UNSEEN.get(kind, ()) if getattr(settings, name, False)), None)
    if wrong:
        raise ModelError(
            f"the base model has {wrong}, which is not written as GGUF here; merge the adapter with `peftkit merge` "
            "and take llama.cpp's own convert_hf_to_gguf.py"
        )


def write_settings(writer: Any, architecture: Architecture) -> None:
    """Write into a GGUF file what llama.cpp has to know of a model to compute with it.

    Args:
        writer: gguf's writer.
        architecture: The model's.
    """
    settings = architecture.settings
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_vocab_size(settings.vocab_size)
    if architecture.name == "gpt2":
        writer.add_feed_forward_length(settings.n_inner or 4 * settings.n_embd)
        writer.add_layer_norm_eps(settings.layer_norm_epsilon)
        return
    size = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    rope = settings.rope_parameters
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def rope_factors(settings: Any) -> torch.Tensor | None:
    """Return what llama.cpp divides the frequencies of a Llama 3 model by; None where it divides by nothing.

    They are the plain frequencies over those that transformers computes.

    Returns:
        float32 of shape (head size / 2,).
    """
    rope = getattr(settings, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found, _ = ROPE_INIT_FUNCTIONS["llama3"](settings, torch.device("cpu"))
    size = 2 * len(found)
    plain = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    factors: torch.Tensor = (plain / found.double()).float()
    return factors
