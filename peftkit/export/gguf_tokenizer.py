"""A tokenizer as a GGUF file holds it: tokens, merges, and by which rule a text is split before they are applied.

llama.cpp knows the rules by name and has each in its own code, so a tokenizer is taken only if its rule is one of
them; a test compares the token ids of both on a thousand texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|\p{{N}}|{_REST}": "qwen2",
}
"""llama.cpp's names of rules that are one regular expression."""
_IDS = ("bos", "eos", "unk", "sep", "pad", "mask")


def write_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Write a tokenizer and its chat template into a GGUF file.

    Args:
        writer: gguf's writer.
        tokenizer: The model's tokenizer.
        count: Rows of the model's embeddings; what the tokenizer lacks is filled up with tokens that are never used.

    Returns:
        What llama.cpp does otherwise, a sentence each.

    Raises:
        ModelError: It is of a kind that is not written, or splits a text by a rule that llama.cpp does not have.
    """
    from gguf import TokenType

    whole = _content(tokenizer)
    model = whole["model"]
    rule = splitting_rule(tokenizer.name_or_path, whole)
    tokens = {place: token for token, place in model["vocab"].items()}
    types = dict.fromkeys(tokens, TokenType.NORMAL)
    for added in whole["added_tokens"]:
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise ModelError(
                f"the token '{added['content']}' of '{tokenizer.name_or_path}' takes in the space beside it, which "
                "llama.cpp does not do; this tokenizer cannot be written as GGUF"
            )
        tokens[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if max(tokens) >= count:
        raise ModelError(
            f"the tokenizer of '{tokenizer.name_or_path}' has {max(tokens) + 1} tokens, and the model embeddings for "
            f"{count}; they do not belong together"
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list([tokens.get(place, f"[PAD{place}]") for place in range(count)])
    writer.add_token_types([types.get(place, TokenType.UNUSED) for place in range(count)])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    for name in _IDS:
        place = getattr(tokenizer, f"{name}_token_id")
        if place is not None:
            getattr(writer, f"add_{name}_token_id")(place)
    writer.add_add_bos_token(_adds(tokenizer, 0, tokenizer.bos_token_id))
    writer.add_add_eos_token(_adds(tokenizer, -1, tokenizer.eos_token_id))
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
    normalizer = whole.get("normalizer")
    return [f"the tokenizer rewrites a text first ({normalizer['type']}), and llama.cpp does not"] if normalizer else []


def splitting_rule(name: str, whole: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the rule by which a tokenizer splits a text.

    Args:
        name: The tokenizer's name, for errors.
        whole: The content of its `tokenizer.json`.

    Raises:
        ModelError: The tokenizer is no byte-level BPE, or llama.cpp has no such rule.
    """
    model = whole["model"]
    steps = whole.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    kinds = [one.get("type") for one in steps]
    last = steps[-1]
    if model["type"] != "BPE" or model.get("byte_fallback") or kinds[-1] != "ByteLevel" or last["add_prefix_space"]:
        raise ModelError(
            f"the tokenizer of '{name}' is no byte-level BPE, which alone is written as GGUF here; merge the adapter "
            "with `peftkit merge` and take llama.cpp's own convert_hf_to_gguf.py"
        )
    rule = None
    if kinds == ["ByteLevel"] and last["use_regex"]:
        rule = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and last["use_regex"]:
        rule = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not last["use_regex"] and steps[0]["behavior"] == "Isolated":
        rule = SPLITS.get(steps[0]["pattern"].get("Regex", ""))
    if rule is None or bool(model.get("ignore_merges")) != (rule == "llama-bpe"):
        raise ModelError(
            f"the tokenizer of '{name}' splits texts by a rule that llama.cpp has no name for here; merge the adapter "
            "with `peftkit merge` and take llama.cpp's own convert_hf_to_gguf.py"
        )
    return rule


def _content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"the tokenizer of '{tokenizer.name_or_path}' has no tokenizer.json, which is needed to write it as GGUF"
        )
    whole: dict[str, Any] = json.loads(backend.to_str())
    return whole


def _adds(tokenizer: PreTrainedTokenizerBase, place: int, token: int | None) -> bool:
    """Whether the tokenizer puts a token at the start (`place` 0) or end (-1) of a text."""
    return (
        token is not None
        and tokenizer("a")["input_ids"][place] == token != tokenizer("a", add_special_tokens=False)["input_ids"][place]
    )
