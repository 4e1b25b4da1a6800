"""Help and listing stay quick: they import none of the large libraries."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "matplotlib",
    "numpy",
    "pandas",
    "peft",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "trl",
}
PROBE = """
import json, sys
sys.argv = ["peftkit", *sys.argv[1:]]
from peftkit.cli import main
code = None
try:
    main()
except SystemExit as left:
    code = left.code
sys.stderr.write(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "Fine-tune a language model"),
        (["recipes"], "movie-review"),
        (["recipes", "--json"], '"sentiment"'),
        (["--version"], version("peftkit")),
        (["run", "--help"], "KEY=VALUE"),
        (["plan", "--help"], "--gpu"),
        (["assets"], "vader-ratings"),
        (["run", "sentimant"], ""),
        (["plan", "sentiment", "--gpu", "24TB"], ""),
    ],
)
def test_no_large_library_is_imported(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, timeout=60, check=True)
    assert said in done.stdout
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] == (0 if said else 2)
    assert "peftkit.cli" in found["modules"]
    assert HEAVY.isdisjoint(found["modules"]), HEAVY & set(found["modules"])


def test_importing_the_package_imports_no_large_library() -> None:
    code = "import json, sys, peftkit; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = json.loads(done.stdout)
    assert "peftkit" in modules
    assert HEAVY.isdisjoint(modules), HEAVY & set(modules)


def test_every_public_name_can_be_had() -> None:
    import peftkit

    for name in peftkit.__all__:
        assert getattr(peftkit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'trainn'"):
        peftkit.trainn  # noqa: B018


SEGMENTS = """
import json, os, sys
from pathlib import Path
sys.argv = ["peftkit", "recipes"]
from peftkit import machine
machine.NVIDIA = Path(sys.executable if sys.stdin.read() == "a card" else "/nowhere")
from peftkit.cli import main
try:
    main()
except SystemExit:
    pass
found = {name: os.environ.get(name) for name in machine.ALLOCATOR}
sys.stderr.write(json.dumps({**found, "torch": "torch" in sys.modules}))
"""


@pytest.mark.parametrize(
    ("given", "card", "used"),
    [
        ({}, "a card", {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({}, "none", {}),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "a card", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "a card", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
def test_the_allocator_is_told_before_torch_is_imported_and_the_users_word_counts(given, card, used) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    around = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", SEGMENTS],
        input=card,
        env={**around, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stderr.splitlines()[-1])
    assert found == {**dict.fromkeys(names), **used, "torch": False}
