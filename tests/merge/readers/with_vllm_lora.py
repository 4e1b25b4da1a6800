"""The likeliest next tokens by a base with an adapter through vLLM in float32: `python with_vllm_lora.py JOB.json`.

vLLM for processors fails on log-probabilities of a prompt with an adapter, so each token's is asked for as an answer.
For each beginning of a text, the array that is written holds the likeliest tokens and their log-probabilities.
"""

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
from vllm.lora.request import LoRARequest

COUNT = 20

if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": job["settings"]["rank"]}
    model = LLM(job["model"], dtype="float32", enforce_eager=True, max_model_len=2 * len(job["ids"][0]), **lora)
    beginnings = [ids[:length] for ids in job["ids"] for length in job["settings"]["lengths"]]
    asked = SamplingParams(max_tokens=1, temperature=0, logprobs=COUNT)
    found = []
    for number, folder in enumerate(job["settings"]["adapters"], 1):
        prompts = [{"prompt_token_ids": ids} for ids in beginnings]
        answers = model.generate(prompts, asked, lora_request=LoRARequest(f"adapter{number}", number, folder))
        likeliest = [
            sorted(answer.outputs[0].logprobs[0].items(), key=lambda one: -one[1].logprob) for answer in answers
        ]
        found.append([[(token, seen.logprob) for token, seen in one[:COUNT]] for one in likeliest])
    np.save(job["out"], np.array(found))
