"""A tiny model, its tokenizer, and a small data set that the tests share."""

import json
import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; set before torch is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell in the background leaves it, for our children too
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GOOD = ("good", "great", "lovely", "fine", "warm", "bright")
BAD = ("bad", "awful", "dull", "poor", "cold", "bleak")


@pytest.fixture(autouse=True)
def own_times(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs of tests took is not kept among the times of the user's own."""
    monkeypatch.setattr("peftkit.plan.calibration._file", lambda: tmp_path_factory.getbasetemp() / "steps.jsonl")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with a byte-level tokenizer: steps of milliseconds."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens[:3]])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON-lines file of 240 short texts with labels that can be learned."""
    path = tmp_path_factory.mktemp("data") / "reviews.jsonl"
    rows = [
        {"text": f"{number} it was a {words[number % 6]} {noun} by no. {number * 7919}", "label": label}
        for number in range(60)
        for noun in ("film", "book")
        for words, label in ((GOOD, "positive"), (BAD, "negative"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def small(tiny_model: Path, reviews: Path) -> list[str]:
    """Words of a run that takes a few seconds."""
    return [
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "data.test_fraction=0.2",
        "train.max_steps=4",
        "train.max_length=256",
        "evaluate.max_rows=12",
        "evaluate.bootstrap_samples=50",
    ]
