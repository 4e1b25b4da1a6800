"""Logits of a model in float32 through transformers alone: `python with_transformers.py JOB.json`."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
torch.set_num_threads(1)
AutoTokenizer.from_pretrained(job["model"])
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
with torch.inference_mode():
    logits = model(input_ids=torch.tensor(job["ids"])).logits
assert not {"peft", "peftkit"} & sys.modules.keys()
np.save(job["out"], logits.numpy())
