"""What is declared in pyproject.toml, what the code imports, and what the wheel holds agree."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted([*(ROOT / "peftkit").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")])
# Distributions that are needed without an import statement of ours, and why.
NOT_IMPORTED = {
    "attrs": "PEFT's CorDA imports it, and does not declare it",
    "pip": "fetches the embedded assets, as `python -m pip`",
    "setuptools": "names the source archive of the embedded data, called by pip",
    "pyopenssl": "model-signing imports it, and does not declare it",
}
LARGE = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "sklearn", "scipy", "numpy"}
STARTUP = (
    "__init__",
    "__main__",
    "cli",
    "config",
    "errors",
    "recipe",
    "resolve",
    "rundir",
    "ui",
    "model/__init__",
    "model/assets",
)
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names of the modules that import statements among these nodes import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


distributions = functools.cache(packages_distributions)


def third_party() -> set[str]:
    names = set().union(*(imports(ast.walk(tree_of(path))) for path in SOURCES))
    return names - sys.stdlib_module_names - {"peftkit", "peftkit_recipes"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"]]
    lines += [one for name, more in extras.items() if name != "test" for one in more]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when a module is imported: not those in functions, nor those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def test_the_walk_of_imports_finds_what_it_should() -> None:
    tree = ast.parse(
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import c\n"
        "try:\n    from d.e import f\nexcept ImportError:\n    pass\ndef g():\n    import h\nfrom . import i\n"
    )
    assert imports(at_import(tree)) == {"a", "typing", "d"}
    assert imports(ast.walk(tree)) == {"a", "typing", "c", "d", "h"}
    assert len(SOURCES) > 30


def test_packages_are_the_folders_with_python_files() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES}
    expected = {
        folder.replace("recipes", "peftkit_recipes", 1) if folder == "recipes" else folder for folder in folders
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected
    assert all((path.parent / "__init__.py").is_file() for path in SOURCES)


def test_every_import_is_declared() -> None:
    missing = {
        name
        for name in third_party()
        if declared().isdisjoint(normal(one) for one in distributions().get(name, [name]))
    }
    assert missing == set()


def test_every_dependency_is_used() -> None:
    used = {normal(one) for name in third_party() for one in distributions().get(name, [name])}
    assert declared() - used == set(NOT_IMPORTED)


def test_every_built_in_recipe_is_registered() -> None:
    points = PROJECT["project"]["entry-points"]["peftkit.recipes"]
    files = {
        path.stem for path in (ROOT / "recipes").glob("*.py") if re.search(r"^recipe = ", path.read_text("utf-8"), re.M)
    }
    assert {value.removeprefix("peftkit_recipes.").removesuffix(":recipe") for value in points.values()} == files


def test_rich_is_imported_in_one_place() -> None:
    assert [name_of(path) for path in SOURCES if "rich" in imports(ast.walk(tree_of(path)))] == ["peftkit/ui.py"]


@pytest.mark.parametrize("name", STARTUP)
def test_start_up_modules_import_nothing_large(name: str) -> None:
    assert LARGE.isdisjoint(imports(at_import(tree_of(ROOT / "peftkit" / f"{name}.py"))))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_remote_code_and_no_pickle(path: Path) -> None:
    tree = tree_of(path)
    assert PICKLES.isdisjoint(imports(ast.walk(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            assert ast.unparse(node.value) == "False"
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            texts = [ast.unparse(value) for key, value in pairs if key and ast.unparse(key) == "'trust_remote_code'"]
            assert set(texts) <= {"False"}
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save")
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert {alias.name for alias in node.names}.isdisjoint({"load", "save"})


def test_the_contributing_guide_names_every_module() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `((?:peftkit|recipes)/[\w/.]+)` +\| \S.* \|$", guide, flags=re.MULTILINE))
    expected = {name_of(path) for path in SOURCES if path.name != "__init__.py"}
    templates = {name_of(path) for path in (ROOT / "peftkit").rglob("*.j2")}
    assert named == expected | templates


@pytest.mark.xdist_group("wheel")
def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, since a build leaves files beside what it builds
    for name in ("peftkit", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*command, "-w", str(tmp_path), str(source)],
        check=True,
        timeout=300,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = {
        re.sub(r"^recipes/", "peftkit_recipes/", path.relative_to(source).as_posix())
        for name in ("peftkit", "recipes")
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    assert held == kept
    assert {"peftkit/py.typed", "peftkit/evaluate/report.html.j2", "peftkit/adapter/card.md.j2"} <= held


def test_a_run_needs_nothing_but_what_is_declared(small: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.only_declared", "run", "sentiment", *small, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
