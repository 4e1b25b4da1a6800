"""The source runs nothing that data could choose, and every dependency is held above its known weaknesses."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = sorted([*(ROOT / "peftkit").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")])
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load"),
    *("torch.save", "numpy.fromfile", "np.fromfile", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("shutil.unpack_archive", "tempfile.mktemp", "jinja2.Template", "runpy.run_path", "runpy.run_module"),
}
RUNS_CODE = {"peftkit/recipe.py": "a recipe file that was named on the command line"}
BY_NAME = {
    "peftkit/__init__.py": "names of a table in it",
    "peftkit/plan/stand_ins.py": "four fixed names of Liger's modules",
}
WITHOUT_UPPER = {
    "fsspec": "`datasets` says which",
    "packaging": "reads version ranges, unchanged for years",
    "pip": "comes with the environment",
    "setuptools": "comes with the environment",
    "types-psutil": "stubs",
    "types-pyyaml": "stubs",
}
WEAK_BELOW = {
    "torch": ("2.6", "CVE-2025-32434"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "pyarrow": ("14.0.1", "CVE-2023-47248"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
    "setuptools": ("78.1.1", "CVE-2025-47273"),
    "cryptography": ("44.0.1", "CVE-2024-12797"),
    "transformers": ("4.53", "CVE-2025-5197"),
    "starlette": ("0.49.1", "CVE-2025-62727"),
}
"""Direct dependencies: the first version without a weakness that peftkit's use of it could meet, and its number."""
PINNED_WEAK_BELOW = WEAK_BELOW | {
    "aiohttp": ("3.12.14", "CVE-2025-53643"),
    "certifi": ("2024.7.4", "CVE-2024-39689"),
    "fonttools": ("4.60.2", "CVE-2025-66034"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "idna": ("3.7", "CVE-2024-3651"),
    "pillow": ("11.3.0", "CVE-2025-48379"),
    "requests": ("2.32.4", "CVE-2024-47081"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
    "urllib3": ("2.5.0", "CVE-2025-50181"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for more in extras for line in more if not line.startswith("peftkit"))]
    return [Requirement(line) for line in lines]


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {normal(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_runs_what_data_could_choose(path: Path) -> None:
    for node, function in calls(path):
        assert function not in FORBIDDEN, f"line {node.lineno}: {function}"
        assert not any(word.arg == "shell" for word in node.keywords), f"line {node.lineno}: a shell"
        if function.endswith(("exec_module", "spec_from_file_location")):
            assert name_of(path) in RUNS_CODE
        if function.endswith("import_module"):
            fixed = isinstance(node.args[0], ast.Constant)
            assert fixed or name_of(path) in BY_NAME, f"line {node.lineno}: {ast.unparse(node)}"
        if function in ("yaml.load", "load"):
            loader = [ast.unparse(word.value) for word in node.keywords if word.arg == "Loader"]
            assert loader == ["_StrictLoader"]
        if function.endswith((".extractall", ".extract")):
            pytest.fail(f"line {node.lineno}: members of archives are read one by one, never unpacked by their names")


def test_the_strict_loader_is_a_safe_one() -> None:
    import yaml

    from peftkit.yaml_file import _StrictLoader

    assert issubclass(_StrictLoader, yaml.SafeLoader)
    assert not issubclass(_StrictLoader, yaml.FullLoader)


def test_the_rules_of_ruff_see_a_shell_and_a_pickle() -> None:
    weak = ROOT / "peftkit" / "weak.py"
    text = 'import pickle\nimport subprocess\n\nsubprocess.run("ls", shell=True)\npickle.loads(b"")\neval("1")\n'
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename", str(weak), "-"]
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=ROOT).stdout
    assert {"S301", "S307", "S602"} <= set(re.findall(r"S\d+", said))


def test_every_dependency_has_bounds() -> None:
    for one in requirements():
        operators = {spec.operator for spec in one.specifier}
        if one.name.startswith("types-"):
            continue
        assert operators & {">=", "=="}, f"{one.name} has no lower bound"
        assert operators & {"<", "==", "~="} or one.name in WITHOUT_UPPER, f"{one.name} has no upper bound"


@pytest.mark.parametrize("name", WEAK_BELOW)
def test_no_lower_bound_is_a_version_with_a_known_weakness(name: str) -> None:
    least, number = WEAK_BELOW[name]
    found = [one for one in requirements() if normal(one.name) == name]
    assert found
    for one in found:
        floor = next(Version(spec.version) for spec in one.specifier if spec.operator == ">=")
        assert floor >= Version(least), f"{one} allows {number}"


def test_pinned_versions_are_within_bounds_and_above_known_weaknesses() -> None:
    pins = pinned()
    for one in requirements():
        if normal(one.name) in pins:
            assert one.specifier.contains(pins[normal(one.name)]), f"{one} and {pins[normal(one.name)]}"
    for name, (least, number) in PINNED_WEAK_BELOW.items():
        if name in pins:
            assert pins[name] >= Version(least), f"{name} {pins[name]} has {number}"


def test_the_policy_names_what_is_trusted() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for part in ("Report a weakness", "What is trusted", "not trusted", "Out of scope", "trust_remote_code"):
        assert part in text
