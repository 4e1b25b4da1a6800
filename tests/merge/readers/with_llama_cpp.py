"""Logits of a GGUF file, and an adapter for it, through llama.cpp: `python with_llama_cpp.py JOB.json`."""

import json
import sys
from pathlib import Path

import numpy as np
from llama_cpp import GGML_TYPE_F32, Llama

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
length = len(job["ids"][0])
sizes = {"n_ctx": length, "n_batch": length, "n_threads": 1, "type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32}
model = Llama(job["model"], logits_all=True, verbose=False, lora_path=job["settings"].get("adapter"), **sizes)
logits = []
for ids in job["ids"]:
    model.reset()
    model.eval(ids)
    logits.append(np.array(model.scores[:length]))
np.save(job["out"], np.stack(logits))
