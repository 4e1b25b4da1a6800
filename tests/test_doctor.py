import copy
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from peftkit import doctor, doctor_screen, machine
from peftkit.model.assets import ASSETS
from peftkit.recipe import Listing, Preset, list_recipes
from peftkit.ui import UI

GIB = 1 << 30
NEEDS = {row["name"]: f"'{row['name']}{row['needs']}'" for row in doctor._packages()}


def advice(found):
    return {problem["what"]: problem["do"] for problem in found["problems"]}


def shown(found, width=80):
    ui = UI()
    ui._out = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system=None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    doctor_screen.show(ui, found)
    return ui._out.file.getvalue()


def gpu(free=30 * GIB, memory=32 * GIB):
    return {"name": "RTX 9090", "memory": memory, "free": free, "capability": "9.0", "bfloat16": True}


@pytest.fixture(autouse=True)
def at_peace(monkeypatch):
    """A machine with room and without a GPU of which torch does not know, whatever this one is."""
    import psutil

    memory = SimpleNamespace(total=16 * 10**9, available=8 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * 10**9))
    monkeypatch.setattr(doctor, "_has_nvidia", lambda: False)


@pytest.fixture
def torch_says(monkeypatch):
    """Let torch be built and equipped as the test says; no layer is tried."""

    def say(**changes):
        found = {**doctor._torch(), "device": "cuda", "dtype": "bfloat16", **changes}
        monkeypatch.setattr(doctor, "_torch", lambda: copy.deepcopy(found))
        monkeypatch.setattr(doctor, "_try", lambda *_: None)

    return say


def test_a_healthy_machine_has_no_problems():
    found = doctor.diagnose()
    assert found["problems"] == []
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == {"version": sys.version.split()[0], "needs": ">=3.11", "ok": True}
    rows = {row["name"]: row for row in found["packages"]}
    assert rows["torch"]["needs"].startswith(">=2.")
    assert rows["torch"]["installed"] == found["versions"]["torch"]
    assert "pytest" not in rows  # an extra
    assert found["torch"]["device"] == machine.device()
    assert found["torch"]["dtype"] == machine.fast_dtype()
    assert found["quantization"] == {"nf4": None, "fp4": None, "int8": None}
    assert {asset["name"] for asset in found["cache"]["assets"]} == set(ASSETS)
    assert found["memory"] == {"total": 16 * 10**9, "available": 8 * 10**9}


def test_diagnosing_leaves_the_random_numbers_and_the_log_as_they_were():
    import logging

    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    doctor.diagnose()
    assert torch.equal(torch.rand(3), expected)
    assert logging.root.manager.disable == logging.NOTSET


def test_the_screen_fits_80_columns():
    found = doctor.diagnose()
    lines = [line.rstrip() for line in shown(found).splitlines()]
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    bitsandbytes = next(row for row in found["packages"] if row["name"] == "bitsandbytes")
    assert ["✓", "bitsandbytes", bitsandbytes["installed"], bitsandbytes["needs"]] in rows
    assert ["✓", "nf4", "works"] in rows
    assert "memory: 8.00 GB available of 16.00 GB" in lines
    assert lines[-1] == "✓ no problems"


def test_quiet_shows_nothing(capsys):
    doctor_screen.show(UI(quiet=True), doctor.diagnose())
    assert capsys.readouterr() == ("", "")


def test_marks_are_words_where_the_screen_has_no_such_characters(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert (doctor_screen._mark(True), doctor_screen._mark(False)) == ("ok", "no")


def test_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.diagnose()
    assert found["torch"]["error"] == "import of torch halted; None in sys.modules"
    assert set(found["quantization"].values()) == {"torch cannot be used"}
    assert found["fits"] == "not known while torch cannot be used"
    assert advice(found) == {
        "torch cannot be used: import of torch halted; None in sys.modules": (
            f"pip install --force-reinstall {NEEDS['torch']}"
        )
    }
    assert f"    pip install --force-reinstall {NEEDS['torch']}\n" in shown(found)


def test_bitsandbytes_that_cannot_be_imported(monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    found = doctor.diagnose()
    reason = "import of bitsandbytes.nn halted; None in sys.modules"
    assert found["quantization"] == dict.fromkeys(doctor.KINDS, reason)
    assert advice(found) == {
        f"bitsandbytes cannot be used: {reason}": (
            f"pip install --force-reinstall {NEEDS['bitsandbytes']}, or set model.quantization=none"
        )
    }


def test_a_kind_that_fails_is_named_with_one_line(monkeypatch):
    import bitsandbytes

    def forward(*_):
        raise RuntimeError("\nno kernel for this device\nTraceback: much more")

    monkeypatch.setattr(bitsandbytes.nn.Linear8bitLt, "forward", forward)
    found = doctor.diagnose()
    assert found["quantization"] == {"nf4": None, "fp4": None, "int8": "no kernel for this device"}
    assert advice(found) == {
        "quantization int8 does not work here: no kernel for this device": "set model.quantization=nf4"
    }
    assert ["✗", "int8", "no", "kernel", "for", "this", "device"] in [
        line.split() for line in shown(found).splitlines()
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda product, values: product * 3, "its product is off by 2"),
        (lambda product, values: product * float("nan"), "its product is off by nan%"),
        (lambda product, values: product.detach() + 0 * values, "its gradient is off by 100%"),
    ],
)
def test_a_kind_that_computes_something_else_is_no_usable_kind(monkeypatch, change, reason):
    import bitsandbytes

    right = bitsandbytes.nn.Linear4bit.forward
    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", lambda self, values: change(right(self, values), values))
    found = doctor.diagnose()["quantization"]
    assert found["nf4"].startswith(reason)
    assert found["fp4"].startswith(reason)
    assert found["int8"] is None


def test_packages_that_are_missing_or_of_another_version(monkeypatch):
    versions = {"here": "1.5.0+cpu", "old": "0.9"}

    def version(name):
        if name not in versions:
            raise doctor.PackageNotFoundError(name)
        return versions[name]

    lines = ["here<2,>=1.5", "old<2,>=1", "gone>=3", 'not-asked; extra == "test"', 'elsewhere; sys_platform == "none"']
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "version", version)
    found = doctor.diagnose()
    assert found["packages"] == [
        {"name": "here", "installed": "1.5.0+cpu", "needs": ">=1.5,<2", "ok": True},
        {"name": "old", "installed": "0.9", "needs": ">=1,<2", "ok": False},
        {"name": "gone", "installed": None, "needs": ">=3", "ok": False},
    ]
    assert advice(found) == {
        "old is 0.9, outside >=1,<2": "pip install 'old>=1,<2'",
        "gone is missing": "pip install 'gone>=3'",
    }
    assert "✗  gone" in shown(found)
    assert "1 of the 3 packages" in shown(found)


def test_a_missing_bitsandbytes_is_one_problem_not_four(monkeypatch):
    def version(name):
        if name == "bitsandbytes":
            raise doctor.PackageNotFoundError(name)
        return machine.version(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    assert advice(doctor.diagnose()) == {"bitsandbytes is missing": f"pip install {NEEDS['bitsandbytes']}"}


def test_a_source_folder_that_is_not_installed(monkeypatch):
    def missing(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    monkeypatch.setattr(doctor, "metadata", missing)
    found = doctor.diagnose()
    assert advice(found) == {"peftkit runs from its source folder and is not installed": "pip install -e ."}


def test_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.4")
    assert advice(doctor.diagnose()) == {
        "Python is 3.10.4": "install peftkit in an environment with Python >=3.11",
    }


@pytest.mark.parametrize(
    ("gigabytes", "line"),
    [
        (32, "RTX 9090 has 34.36 GB: peftkit run RECIPE --preset 24gb"),
        (80, "RTX 9090 has 85.90 GB: peftkit run RECIPE --preset 80gb"),  # of another recipe than the other presets
        (4, "RTX 9090 has 4.29 GB, so preset tiny is the one for this machine"),
    ],
)
def test_the_largest_preset_of_any_recipe_is_named(monkeypatch, torch_says, gigabytes, line):
    torch_says(build="CUDA 13.0", gpus=[gpu(free=gigabytes * GIB, memory=gigabytes * GIB)])
    monkeypatch.setattr(machine, "accelerator", lambda: ("RTX 9090", gigabytes * GIB))
    known = list_recipes().recipes["sentiment"]
    other = doctor.replace(known, name="other", presets={"tiny": Preset("", 0, {}), "80gb": Preset("", 80, {})})
    monkeypatch.setattr(doctor, "list_recipes", lambda: Listing({"other": other, "sentiment": known}))
    found = doctor.diagnose()
    assert found["fits"] == line
    assert found["problems"] == []


def test_a_gpu_is_shown_with_its_memory(torch_says):
    torch_says(build="CUDA 13.0", gpus=[gpu(), gpu(free=None)])
    text = shown(doctor.diagnose())
    assert "✓ torch is built for CUDA 13.0; dtype auto is bfloat16 on cuda" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["RTX", "9090", "34.36", "GB", "32.21", "GB", "9.0", "✓"] in rows
    assert ["RTX", "9090", "34.36", "GB", "?", "9.0", "✓"] in rows
    assert "no CUDA GPU" not in text.partition("Verdict")[0]


def test_a_gpu_that_others_use(torch_says):
    torch_says(build="CUDA 13.0", gpus=[gpu(free=8 * GIB)])
    assert advice(doctor.diagnose()) == {
        "only 8.59 GB of the 34.36 GB of RTX 9090 are free": (
            "end the programs that hold the rest: `nvidia-smi` lists them"
        )
    }


@pytest.mark.parametrize(
    ("build", "hidden", "do"),
    [
        ("CPU", False, "install torch's CUDA build: https://pytorch.org/get-started/locally/"),
        ("CUDA 13.0", True, "unset CUDA_VISIBLE_DEVICES"),
        (
            "CUDA 13.0",
            False,
            "update the NVIDIA driver: `nvidia-smi` names the newest CUDA version that it can run",
        ),
    ],
)
def test_an_nvidia_gpu_that_torch_does_not_see(monkeypatch, torch_says, build, hidden, do):
    torch_says(build=build, gpus=[], device="cpu")
    monkeypatch.setattr(doctor, "_has_nvidia", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert advice(doctor.diagnose()) == {f"there is an NVIDIA GPU that torch (built for {build}) does not see": do}


def test_memory_and_disk_that_run_out(monkeypatch, tmp_path, torch_says):
    import psutil

    torch_says(build="CPU", gpus=[], device="cpu")
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.chdir(tmp_path)
    memory = SimpleNamespace(total=4 * 10**9, available=1_500_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=900_000_000))
    assert advice(doctor.diagnose()) == {
        "only 1.50 GB of memory are available": "close other programs: the smallest preset needs 2.00 GB",
        f"only 900.0 MB are free in {tmp_path}/not/yet": "free space, or set PEFTKIT_CACHE to another folder",
        f"only 900.0 MB are free in {tmp_path}": "free space, or use --out with another folder",
    }


def test_a_cache_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "file").chmod(0o755)
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "file" / "cache"))
    found = doctor.diagnose()
    assert found["cache"]["folder"] == str(tmp_path / "file" / "cache")
    assert [asset["cached"] for asset in found["cache"]["assets"]] == [False] * len(ASSETS)
    assert advice(found) == {
        f"{tmp_path}/file/cache cannot be written to": "make it writable, or set PEFTKIT_CACHE to another folder"
    }


def test_a_broken_recipe_is_named(monkeypatch):
    good = list_recipes().recipes
    monkeypatch.setattr(
        doctor, "list_recipes", lambda: Listing(good, {"bad": "recipe 'bad' (x:y) cannot be loaded: z"})
    )
    assert advice(doctor.diagnose()) == {
        "recipe 'bad' (x:y) cannot be loaded: z": "update or uninstall the package that brings this recipe"
    }


def test_the_hub_is_described_without_its_secrets(monkeypatch, tmp_path):
    from huggingface_hub import constants

    for name in ("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert doctor.diagnose()["hub"] == {"HF_HOME": None, "HF_ENDPOINT": None, "HF_HUB_OFFLINE": False, "token": False}

    (tmp_path / "token").write_text("hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    monkeypatch.setenv("HF_HOME", "/models/hub")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:hf_secret@mirror.example:8443/hub?key=hf_secret")
    found = doctor.diagnose()
    assert found["hub"] == {
        "HF_HOME": "/models/hub",
        "HF_ENDPOINT": "https://mirror.example:8443/hub",
        "HF_HUB_OFFLINE": True,
        "token": True,
    }
    assert "hf_secret" not in json.dumps(found) + shown(found)

    (tmp_path / "token").unlink()
    assert doctor.diagnose()["hub"]["token"] is False
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = doctor.diagnose()
    assert found["hub"]["token"] is True
    assert "hf_secret" not in json.dumps(found) + shown(found)


def test_the_command_gives_json_alone_where_torch_and_bitsandbytes_are_broken():
    code = (
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'bitsandbytes'):\n"
        "            print('noise')\n"
        "            print('noise', file=sys.stderr)\n"
        "            raise ImportError(f'{name}: undefined symbol\\nmore')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "from peftkit.cli import main\n"
        "sys.argv = ['peftkit', 'doctor', '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["torch"]["error"] == "torch: undefined symbol"
    assert f"pip install --force-reinstall {NEEDS['torch']}" in advice(found).values()
