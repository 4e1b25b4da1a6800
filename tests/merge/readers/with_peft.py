"""Logits of a base and a packed adapter in float32 through plain PEFT: `python with_peft.py JOB.json`."""

import json
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(job["settings"]["pack"]) as file:
    file.extractall(folder)
    with warnings.catch_warnings():
        # Of a setting that is not known, or a tensor that is missing, PEFT only warns.
        for text in (".*nexpected.*", ".*issing.*", ".*ignored.*"):
            warnings.filterwarnings("error", message=text)
        model = PeftModel.from_pretrained(model, folder).eval()
with torch.inference_mode():
    logits = model(input_ids=torch.tensor(job["ids"])).logits
assert "peftkit" not in sys.modules
np.save(job["out"], logits.numpy())
