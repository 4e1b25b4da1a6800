"""Every adapter method of PEFT: what it is, when to choose it, what it takes and what it refuses.

The one statement of these facts: configuration, attaching, `peftkit methods` and the table in `docs/methods.md` read
it. Nothing large is imported here. What each method was seen to do stands beside it, in `methods.json`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASES = ("none", "nf4", "int8")
"""How a base model's weights can be held, of those that are tried; `fp4` behaves as `nf4` does."""
FIGURES = (
    "GSM8K accuracy in PEFT's own comparison (method_comparison/MetaMathQA of huggingface/peft, by the name of its "
    "experiment): Llama-3.2-3B trained on MetaMathQA for 5000 steps, one seed. Runs of one setting differ by up to "
    "0.02, so a smaller difference says nothing; full fine-tuning reaches 0.47 to 0.50"
)
FLOATS = "PEFT decomposes the weights at the start, and can do that with unquantized ones only"
PLAIN = "PEFT makes its trained weights in the dtype of the base weights, which must be a floating one"
_FORWARD = "it replaces the model's forward pass, through which TRL 1.16 computes the loss"
_BYTES = "PEFT takes the packed bytes of quantized weights for weights"
_NORM = "PEFT needs the norms of the weights, and cannot take them of packed ones"
_CODES = "PEFT computes with the codes of quantized weights as if they were weights"


@dataclass(frozen=True)
class Method:
    """One adapter method.

    Attributes:
        name: `adapter.method`; in capitals it is PEFT's `peft_type`.
        title: Name in the literature.
        when: When to choose it.
        paper: arXiv number, where there is a paper.
        rank: PEFT's argument for `adapter.r`, if the method has one, and its usual value.
        alpha: PEFT's argument for `adapter.lora_alpha`, if the method has one, and its usual value.
        dropout: PEFT's argument for `adapter.lora_dropout`, if the method has one.
        targets: What `adapter.target_modules` is when it is left out: `all-linear`, or None where PEFT chooses by the
            kind of model; `-` where the method takes none.
        settings: Further arguments that are given unless `adapter.extra` gives them.
        needs: Arguments that only the user can give, each with what to set.
        refuses: Kinds of quantized weights that it cannot train on, and why; `none` stands for all of them.
        converts: Kinds of weights on which PEFT can turn the trained adapter into LoRA.
        tasks: PEFT's task types that it can be attached for.
        accuracy: The figure that `FIGURES` describes, and the name of its experiment.
    """

    name: str
    title: str
    when: str
    paper: str | None = None
    rank: tuple[str, int] | None = ("r", 16)
    alpha: tuple[str, float] | None = None
    dropout: str | None = None
    targets: str | None = "all-linear"
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    converts: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM")
    accuracy: tuple[float, str] | None = None

    def refusal(self, quantization: str) -> str | None:
        """Say why it cannot train on weights that are held so; None if it can."""
        kind = "nf4" if quantization == "fp4" else quantization
        return self.refuses.get("none") or self.refuses.get(kind)


def quantized(reason: str) -> dict[str, str]:
    """Return one reason for all kinds of quantized weights."""
    return dict.fromkeys(("nf4", "int8"), reason)


_FLOAT = ("none",)
_CAUSAL = ("CAUSAL_LM",)
_PROMPT: dict[str, Any] = {"rank": None, "targets": "-", "settings": {"num_virtual_tokens": 20}}

METHODS = (
    Method(
        "lora",
        "LoRA",
        "the default: read by every server, cheap, as good as any other in most comparisons",
        "2106.09685",
        alpha=("lora_alpha", 32),
        dropout="lora_dropout",
        accuracy=(0.482, "rank32"),
    ),
    Method(
        "adalora",
        "AdaLoRA",
        "a fixed budget of ranks should go to the layers that need it; needs a long run",
        "2303.10512",
        rank=("target_r", 16),
        alpha=("lora_alpha", 32),
        dropout="lora_dropout",
        accuracy=(0.373, "rank32"),
    ),
    Method(
        "adamss",
        "AdaMSS",
        "very few trained parameters, chosen within subspaces of the weights",
        rank=("r", 100),
        refuses=quantized(PLAIN),
        accuracy=(0.345, "rank32"),
    ),
    Method(
        "adaption_prompt",
        "LLaMA-Adapter",
        "a gated prompt in the attention of each layer; Llama, Mistral and GPT-2 only",
        "2303.16199",
        rank=None,
        targets="-",
        settings={"adapter_len": 10},
        refuses={"none": _FORWARD},
        tasks=_CAUSAL,
    ),
    Method("beft", "BEFT", "only a bias on chosen layers: small files", "2509.15974", rank=None),
    Method(
        "boft",
        "BOFT",
        "rotates weights with butterfly factors and keeps their norms; slow",
        "2311.06243",
        rank=None,
        dropout="boft_dropout",
        accuracy=(0.365, "default"),
    ),
    Method(
        "c3a",
        "C3A",
        "circular convolutions: high rank from few parameters; sizes must divide by block_size",
        "2407.19342",
        rank=None,
        converts=_FLOAT,
        accuracy=(0.487, "default"),
    ),
    Method(
        "cartridge",
        "Cartridge",
        "a trained key-value cache that stands for a long text",
        "2506.06266",
        rank=None,
        targets="-",
        settings={"num_virtual_tokens": 20},
        tasks=_CAUSAL,
    ),
    Method(
        "cpt",
        "Context-aware prompt tuning",
        "few rows: examples in the context are themselves refined",
        "2410.17222",
        rank=None,
        targets="-",
        refuses={"none": _FORWARD},
        tasks=_CAUSAL,
    ),
    Method(
        "deft",
        "DEFT",
        "removes a direction from the weights before it adds one",
        rank=("r", 8),
        dropout="deft_dropout",
        refuses={"nf4": _BYTES, "int8": _CODES},
        accuracy=(0.482, "rank32"),
    ),
    Method(
        "delora",
        "DeLoRA",
        "bounds how far weights may move: robust to a high learning rate",
        "2503.18225",
        rank=("r", 8),
        dropout="module_dropout",
        refuses=quantized(_NORM),
        converts=_FLOAT,
        accuracy=(0.503, "rank32"),
    ),
    Method(
        "fourierft",
        "FourierFT",
        "few trained coefficients of the update's spectrum",
        "2405.03003",
        rank=None,
        converts=BASES,
        accuracy=(0.120, "n_frequency-5000"),
    ),
    Method(
        "frod",
        "FRoD",
        "a sparse rotation in the weights' own basis; slow to start",
        rank=None,
        dropout="frod_dropout",
        settings={"progressbar": False},
        refuses=quantized(FLOATS),
        accuracy=(0.509, "default"),
    ),
    Method(
        "glora",
        "GLoRA",
        "scales, shifts and updates weights and biases in one",
        "2306.07967",
        rank=("r", 8),
        refuses=quantized("PEFT takes plain linear layers only"),
        accuracy=(0.418, "default"),
    ),
    Method(
        "gralora",
        "GraLoRA",
        "a LoRA for each block of a weight: more capacity at the same size",
        "2505.20355",
        rank=("r", 32),
        alpha=("alpha", 64),
        dropout="gralora_dropout",
        converts=BASES,
        accuracy=(0.495, "rank32"),
    ),
    Method(
        "hira",
        "HiRA",
        "multiplies weights by a low-rank factor: a high-rank update; takes a high learning rate",
        rank=("r", 32),
        dropout="hira_dropout",
        accuracy=(0.507, "rank32-lr4.5e-3"),
    ),
    Method(
        "hra",
        "HRA",
        "a chain of reflections: orthogonal and low-rank at once; r must be even",
        "2405.17484",
        rank=("r", 8),
        refuses={"nf4": _BYTES, "int8": _CODES},
    ),
    Method(
        "ia3",
        "(IA)3",
        "one scale per activation: tiny files, and little capacity",
        "2205.05638",
        rank=None,
        targets=None,
        accuracy=(0.398, "lr_0.001"),
    ),
    Method(
        "lily",
        "Lily",
        "low-rank parts shared between layers; accurate in its setting, with a large file",
        "2407.09946",
        rank=("r", 32),
        accuracy=(0.549, "rank140-mlp-a2-b2-s8.0"),
    ),
    Method(
        "ln_tuning",
        "LayerNorm tuning",
        "the norms alone: tiny, and safe against forgetting",
        "2312.11420",
        rank=None,
        targets=None,
    ),
    Method(
        "loha",
        "LoHa",
        "a product of two low-rank updates: higher rank at the same size",
        "2108.06098",
        rank=("r", 8),
        alpha=("alpha", 8),
        dropout="module_dropout",
        refuses={"nf4": _BYTES},
        converts=("none", "int8"),
        accuracy=(0.418, "rank32"),
    ),
    Method(
        "lokr",
        "LoKr",
        "a Kronecker product: smaller files than LoRA",
        "2309.14859",
        rank=("r", 8),
        alpha=("alpha", 8),
        dropout="module_dropout",
        refuses={"nf4": _BYTES},
        converts=("none", "int8"),
        accuracy=(0.466, "rank32-factor4-lr0.003"),
    ),
    Method(
        "miss",
        "MiSS",
        "less memory and time than LoRA at like accuracy; becomes LoRA without loss",
        "2409.15371",
        rank=("r", 64),
        dropout="miss_dropout",
        converts=BASES,
        accuracy=(0.487, "default"),
    ),
    Method(
        "multitask_prompt_tuning",
        "Multitask prompt tuning",
        "one prompt for several tasks",
        "2303.02861",
        rank=None,
        targets="-",
        refuses={"none": "it needs a task's number with every row, and a run here has one task"},
    ),
    Method(
        "oft",
        "OFT",
        "rotates weights and keeps their angles: less forgetting; adapter.extra.oft_block_size sets its size",
        "2306.07280",
        rank=None,
        dropout="module_dropout",
        accuracy=(0.490, "rank32"),
    ),
    Method(
        "osf",
        "Orthogonal subspace tuning",
        "continual learning: trains all of the weights' minor directions; files as large as the model",
        "2504.07097",
        rank=None,
        refuses=quantized(FLOATS),
        accuracy=(0.436, "rank128"),
    ),
    Method(
        "p_tuning",
        "P-tuning",
        "a prompt made by a small network; easier to train than a bare prompt",
        "2103.10385",
        **_PROMPT,
    ),
    Method(
        "peanut",
        "PEANuT",
        "a small network of the weights makes the update",
        "2410.01870",
        rank=("r", 32),
        refuses={"nf4": _BYTES, "int8": _CODES},
        accuracy=(0.453, "rank32-relu-depth0-s2.0"),
    ),
    Method(
        "poly",
        "Polytropon",
        "skills that are mixed per task",
        "2202.13914",
        rank=("r", 8),
        refuses={"none": "it needs a task's number with every row, and a run here has one task"},
    ),
    Method(
        "prefix_tuning",
        "Prefix tuning",
        "trained keys and values before each layer's own; fast, and uses up context",
        "2101.00190",
        accuracy=(0.400, "tokens50-init_prefix-lr_0.005"),
        **_PROMPT,
    ),
    Method(
        "prompt_tuning",
        "Prompt tuning",
        "kilobytes per task on one served model; weak on small models",
        "2104.08691",
        rank=None,
        targets="-",
        settings={"num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"},
        accuracy=(0.391, "sample_vocab-lr_0.001"),
    ),
    Method(
        "psoft",
        "PSOFT",
        "rotates the principal directions of the weights alone: few parameters",
        rank=("r", 32),
        alpha=("psoft_alpha", 32),
        dropout="psoft_dropout",
        refuses=quantized(FLOATS),
        converts=_FLOAT,
        accuracy=(0.449, "default"),
    ),
    Method(
        "pvera",
        "PVeRA",
        "VeRA that also learns how sure it is",
        "2512.07703",
        rank=("r", 256),
        dropout="pvera_dropout",
        accuracy=(0.331, "default"),
    ),
    Method(
        "randlora",
        "RandLoRA",
        "full-rank updates from scaled random matrices; strong where LoRA's rank is too low",
        "2502.00987",
        rank=("r", 32),
        alpha=("randlora_alpha", 640),
        dropout="randlora_dropout",
        converts=_FLOAT,
        accuracy=(0.519, "default"),
    ),
    Method(
        "road",
        "RoAd",
        "rotates pairs of outputs: adapters of many users in one batch; sizes must divide by group_size",
        "2409.00119",
        rank=None,
        accuracy=(0.397, "lr_0.001"),
    ),
    Method(
        "shadow",
        "Shadow",
        "a small network that runs beside the model; its auxiliary loss is left out",
        rank=("r", 8),
        alpha=("shadow_alpha", 0.1),
        dropout="shadow_dropout",
        targets="-",
        tasks=_CAUSAL,
        accuracy=(0.481, "default"),
    ),
    Method(
        "shira",
        "SHiRA",
        "trains a few entries of each weight: several adapters disturb each other little",
        "2406.13175",
        rank=("r", 32),
        refuses={"int8": "PEFT mixes two dtypes there, and fails where the base computes in bfloat16"},
    ),
    Method(
        "supertuning",
        "Supertuning",
        "trains the largest entries of each weight",
        "2607.09287",
        rank=None,
        refuses={"nf4": _BYTES, "int8": _CODES},
        accuracy=(0.393, "s9935-topk"),
    ),
    Method(
        "tinylora",
        "TinyLoRA",
        "a handful of parameters, for reinforcement learning rather than for texts",
        "2602.04118",
        rank=("r", 2),
        dropout="tinylora_dropout",
        refuses=quantized(FLOATS),
        converts=_FLOAT,
        accuracy=(0.012, "default"),
    ),
    Method(
        "trainable_tokens",
        "Trainable tokens",
        "new or special tokens should get a meaning, and nothing else should change",
        rank=None,
        targets=None,
        needs={"token_indices": "the ids of the tokens to train, such as adapter.extra.token_indices=[49152]"},
        tasks=("CAUSAL_LM", "SEQ_2_SEQ_LM"),  # PEFT trains no head beside it
    ),
    Method(
        "unilora",
        "Uni-LoRA",
        "one short trained vector for the whole model",
        "2506.00799",
        rank=("r", 4),
        settings={"theta_d_length": 131072},  # of PEFT's best experiment; its default of 256 is next to nothing
        dropout="unilora_dropout",
        refuses=quantized("PEFT leaves its update out of what quantized layers compute, so it would learn nothing"),
        converts=_FLOAT,
        accuracy=(0.408, "r4-td131072-lr0.002"),
    ),
    Method(
        "vblora",
        "VB-LoRA",
        "parts drawn from a bank that all layers share; sizes must divide by vector_length",
        "2405.15179",
        rank=("r", 4),
        dropout="vblora_dropout",
        converts=BASES,
        accuracy=(0.370, "default"),
    ),
    Method(
        "vera",
        "VeRA",
        "shared random matrices and trained scales: a twentieth of LoRA's parameters",
        "2310.11454",
        rank=("r", 256),
        dropout="vera_dropout",
        converts=BASES,
        accuracy=(0.368, "default"),
    ),
    Method(
        "waveft",
        "WaveFT",
        "few trained wavelet coefficients of the update",
        rank=None,
        converts=BASES,
        accuracy=(0.416, "n_frequency-5000"),
    ),
    Method(
        "xlora",
        "X-LoRA",
        "mixes LoRA adapters that are trained already",
        "2402.07148",
        rank=None,
        refuses={"none": "it trains no adapter of its own: it mixes LoRA adapters that exist already"},
    ),
)


_ALIASES = {
    "qlora": "lora",
    "prompt": "prompt_tuning",
    "prefix": "prefix_tuning",
    "ptuning": "p_tuning",
    "llama_adapter": "adaption_prompt",
    "bone": "miss",
    "layernorm": "ln_tuning",
    "ln": "ln_tuning",
    "tokens": "trainable_tokens",
    "(ia)3": "ia3",
}
_BY_NAME = {method.name: method for method in METHODS}


def find_method(name: str) -> Method:
    """Find a method by PEFT's name, or by a short name that people use.

    Raises:
        ValueError: There is none; the message names near ones.
    """
    plain = re.sub(r"[- ]", "_", name.strip().lower())
    found = _BY_NAME.get(_ALIASES.get(plain, plain))
    if found is None:
        near = difflib.get_close_matches(plain, [*_BY_NAME, *_ALIASES], n=1, cutoff=0.5)
        hint = f"did you mean '{_ALIASES.get(near[0], near[0])}'? " if near else ""
        raise ValueError(f"'{name}' is no method of PEFT; {hint}`peftkit methods` lists them")
    return found
