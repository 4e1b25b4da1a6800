"""Help and listing stay quick: they import none of the large libraries."""

import json
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
    ],
)
def test_no_large_library_is_imported(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, timeout=60, check=True)
    assert said in done.stdout
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] == (2 if words == ["run", "sentimant"] else 0)
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
