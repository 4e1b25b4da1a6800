"""Logits of a model in float32 through KerasHub on TensorFlow: `python with_keras_hub.py JOB.json`."""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
import keras_hub  # reads the environment when it is imported

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
backbone = keras_hub.models.Backbone.from_preset(job["model"], dtype="float32", **job["settings"])
model = keras_hub.models.CausalLM.from_preset(job["model"], backbone=backbone)
ids = np.array(job["ids"])
np.save(job["out"], np.array(model({"token_ids": ids, "padding_mask": np.ones_like(ids)})))
