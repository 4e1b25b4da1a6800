"""Logits of a model in float32, and an adapter for it, through mlx-lm: `python with_mlx.py JOB.json`."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import load

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
mx.set_default_device(mx.cpu)
adapter = job["settings"].pop("adapter", None)
model, _ = load(job["model"], model_config=job["settings"], adapter_path=adapter)
model.set_dtype(mx.float32)
np.save(job["out"], np.array(model(mx.array(job["ids"]))))
