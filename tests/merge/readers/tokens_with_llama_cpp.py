"""Token ids of texts by a GGUF file's tokenizer through llama.cpp: `python tokens_with_llama_cpp.py JOB.json`.

The array that is written holds a row for each text, filled up with -1.
"""

import json
import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
model = Llama(job["model"], vocab_only=True, verbose=False)
found = [model.tokenize(text.encode(), add_bos=True, special=True) for text in job["settings"]["texts"]]
rows = np.full((len(found), max(map(len, found))), -1)
for row, ids in zip(rows, found, strict=True):
    row[: len(ids)] = ids
np.save(job["out"], rows)
