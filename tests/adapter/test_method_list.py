"""`peftkit methods`: quick, complete, and right about what it says."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from peftkit.adapter.method_list import describe_method, list_methods, parameters
from peftkit.adapter.methods import METHODS
from peftkit.cli import app
from peftkit.config import AdapterConfig
from peftkit.errors import ConfigError

PROBE = """
import sys
sys.argv = ["peftkit", "methods"]
from peftkit.cli import main
try:
    main()
except SystemExit:
    print(sorted({"torch", "transformers", "peft", "numpy"} & sys.modules.keys()))
"""


def said(*words):
    done = CliRunner().invoke(app, ["methods", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_list_imports_no_large_library():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_method_stands_in_the_list():
    listed = json.loads(said("--json"))
    names = [row["name"] for row in listed]
    assert names[0] == "lora"
    assert {method.name for method in METHODS} <= set(names)
    assert {"lora use_dora", "lora pissa", "lora eva"} <= set(names)
    screen = said()
    assert all(name in screen for name in names)


def test_what_does_not_work_has_its_reason():
    rows = {row["name"]: row for row in list_methods()}
    assert rows["miss"]["works"] == {"none": True, "nf4": True, "int8": True}
    assert "int8" in rows["lora use_dora"]["works"]["int8"]
    assert "learn nothing" in rows["unilora"]["works"]["nf4"]
    assert rows["lora"]["relative_parameters"] == 1


def test_every_setting_of_the_list_is_one():
    for row in list_methods():
        key, _, value = row["setting"].removeprefix("adapter.").partition("=")
        assert AdapterConfig(**{key: value})


def test_one_method_is_shown_with_its_arguments():
    shown = said("vera")
    assert "adapter.r: PEFT's r; usually 256" in shown
    assert "adapter.lora_alpha" not in shown
    assert "d_initial" in shown
    one = json.loads(said("prompt", "--json"))
    assert one["name"] == "prompt_tuning"
    assert one["set_here"]["num_virtual_tokens"] == 20
    assert "adapter.init_lora_weights=pissa" in said("lora")


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match=r"'vra' is no method of PEFT; did you mean 'vera'\?"):
        describe_method("vra")


def test_shares_are_written_with_two_digits():
    assert [parameters(one) for one in (None, 1.0, 0.0432, 15.7)] == ["-", "1x", "0.043x", "16x"]
