"""A pack from here, unpacked by Python's own zipfile in an empty environment, answers in plain PEFT as it did here.

`pytest -m readers -n0 tests/share/test_readers.py` makes an environment for each version of PEFT. With
`PEFTKIT_RECORD=1` it writes what it saw to `benchmarks/results/pack-readers.json`.
"""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftkit import machine
from peftkit.share.pack import pack

from ..merge.readers.case import TEXTS, mean_kl
from ..merge.readers.environment import CannotBuild, make_environment, read, versions
from ..merge.readers.program import embedded_base

pytestmark = [pytest.mark.readers, pytest.mark.timeout(7200)]
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "pack-readers.json"
READERS = {
    "this": ("peft==0.21.2", "transformers==5.23.0"),
    "one minor version older": ("peft==0.20.0", "transformers==5.23.0"),
    "the oldest that is named": ("peft==0.17.1", "transformers==4.57.3"),
}
TORCH = ("torch==2.13.0", "numpy")
LENGTH = 20
MOST_KL = 1e-5


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A pack of a LoRA with all that readers have ignored at times, token ids, and logits of base and adapter here."""
    base = embedded_base()
    folder = tmp_path_factory.mktemp("packed")
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = [tokenizer(text)["input_ids"][:LENGTH] for text in TEXTS]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    settings = {
        "r": 16,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "use_rslora": True,
        "rank_pattern": {"down_proj": 8},
        "alpha_pattern": {r"model\.layers\.(0|1)\.self_attn\.q_proj": 4},
    }
    adapted = get_peft_model(model, LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.02)
    adapted.save_pretrained(folder / "adapter")
    report = pack(folder / "adapter", folder / "a.peft.zip", base=str(base))
    with torch.inference_mode():
        after = adapted(input_ids=torch.tensor(ids)).logits.double().numpy()
        with adapted.disable_adapter():
            before = adapted(input_ids=torch.tensor(ids)).logits.double().numpy()
    assert mean_kl(after, before) > 1e-2
    assert report["bytes"] <= 0.5 * (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    return base, folder / "a.peft.zip", ids, after


@pytest.fixture(scope="module")
def rows():
    """What was seen; with the switch, it is written down."""
    seen = []
    yield seen
    if os.environ.get("PEFTKIT_RECORD") == "1":
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "model": "smollm2-135m-instruct",
            "readers": seen,
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@pytest.mark.parametrize("which", READERS)
def test_plain_peft_reads_a_pack(packed, rows, tmp_path, which):
    base, file, ids, expected = packed
    with tempfile.TemporaryDirectory() as scratch:
        try:
            python = make_environment(Path(scratch) / "venv", [*READERS[which], *TORCH])
        except CannotBuild as error:
            pytest.skip(str(error))
        found = read(python, "with_peft.py", tmp_path, base, ids, pack=str(file))
        kl = mean_kl(expected, found)
        names = [package.partition("==")[0] for package in (*READERS[which], TORCH[0])]
        rows.append({"reader": which, "versions": versions(python, names), "kl": kl, "limit": MOST_KL})
    assert kl < MOST_KL
