"""Log-probability of each token after the first through vLLM in float32: `python with_vllm.py JOB.json`."""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
from vllm import LLM, SamplingParams  # reads the environment when it is imported

if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = LLM(job["model"], dtype="float32", enforce_eager=True, max_model_len=2 * len(job["ids"][0]))
    prompts = [{"prompt_token_ids": ids} for ids in job["ids"]]
    answers = model.generate(prompts, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1))
    found = [
        [seen[token].logprob for token, seen in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)]
        for ids, answer in zip(job["ids"], answers, strict=True)
    ]
    np.save(job["out"], np.array(found))
