"""A recipe is a plugin: from an installed package, broken or not, and from a user's own file.

The project and four third-party packages are built into wheels and installed in an environment of their own, which
borrows the large libraries from the interpreter that runs the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("plugins")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILT_IN = PROJECT["project"]["entry-points"]["peftkit.recipes"]
RECIPE = '''"""Is it a fruit or a tool?"""

from peftkit import EmbeddedData, Preset, Recipe

ROWS = [
    {{"text": "a ripe pear from the tree", "label": "fruit"}},
    {{"text": "two sour cherries in a bowl", "label": "fruit"}},
    {{"text": "the last plum of the year", "label": "fruit"}},
    {{"text": "an old hammer with a new handle", "label": "tool"}},
    {{"text": "pliers that do not close", "label": "tool"}},
    {{"text": "my neighbour's long saw", "label": "tool"}},
]
recipe = Recipe(
    name="{name}",
    summary="Fruit or tool?",
    columns={{"text": ("text",), "label": ("label",)}},
    metrics=("accuracy",),
    embedded=EmbeddedData("six things", "{name}", "CC0-1.0", lambda: ROWS),
    defaults={{"task": {{"kind": "classification"}}, "data": {{"test_fraction": 0.4, "validation_fraction": 0}}}},
    presets={{"tiny": Preset("any machine", 0, {{"train": {{"per_device_train_batch_size": 2}}}})}},
)
'''
PACKAGES = {
    "fruit": RECIPE.format(name="fruit"),
    "sentiment": RECIPE.format(name="sentiment"),
    "exploding": "raise RuntimeError('no luck today')\n",
    "shapeless": "recipe = {'name': 'shapeless'}\n",
}


class Environment:
    """A virtual environment with the project's wheel and the plugins' wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def peftkit(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), "-m", "peftkit", *words]
        return subprocess.run(command, cwd=cwd, env=clean(), capture_output=True, text=True, timeout=300, check=False)


def clean() -> dict[str, str]:
    """This process's environment, without what would put the source tree before installed packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {"OMP_NUM_THREADS": "1"}  # more threads only wait for each other in a model this small


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    subprocess.run(command, env=clean(), capture_output=True, timeout=300, check=True)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("plugins")
    project = folder / "peftkit"  # a copy, since a build leaves files beside what it builds
    for name in ("peftkit", "recipes"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    for name, text in PACKAGES.items():
        package = folder / name
        package.mkdir()
        (package / f"third_party_{name}.py").write_text(text, encoding="utf-8")
        (package / "pyproject.toml").write_text(
            "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"
            f"[project]\nname = 'third-party-{name}'\nversion = '1.0'\n"
            f"[project.entry-points.'peftkit.recipes']\n{name} = 'third_party_{name}:recipe'\n"
            f"[tool.setuptools]\npy-modules = ['third_party_{name}']\n",
            encoding="utf-8",
        )
    wheels = folder / "wheels"
    sources = [str(project), *(str(folder / name) for name in PACKAGES)]
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), *sources)

    environment = Environment(folder / "environment")
    venv.create(environment.folder, with_pip=False)
    pip("--python", str(environment.python), "install", "--no-deps", "--no-index", *map(str, wheels.glob("*.whl")))
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([environment.python, "-c", ask], env=clean(), capture_output=True, text=True, check=True)
    # A line of a .pth file comes after the environment's own packages, and .pth files in it (an editable install of
    # the project is one) are not followed.
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    Path(done.stdout.strip(), "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return environment


def settings(tiny_model: Path) -> list[str]:
    return [f"model.path={tiny_model}", "train.max_steps=2", "evaluate.bootstrap_samples=20", "evaluate.max_rows=4"]


def test_the_installed_wheel_is_what_runs(installed: Environment, tmp_path: Path) -> None:
    code = "import peftkit, peftkit_recipes; print(peftkit.__file__); print(peftkit_recipes.__file__)"
    done = subprocess.run(
        [installed.python, "-c", code], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(installed.folder)


def test_list_names_plugins_and_survives_broken_ones(installed: Environment, tmp_path: Path) -> None:
    done = installed.peftkit("recipes", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == sorted({"fruit", *BUILT_IN})
    assert "third_party_exploding:recipe" in done.stderr
    assert "no luck today" in done.stderr
    assert "third_party_shapeless:recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_as_json_has_the_broken_ones_apart(installed: Environment, tmp_path: Path) -> None:
    done = installed.peftkit("recipes", "--json", cwd=tmp_path)
    assert done.returncode == 0
    listed = json.loads(done.stdout)
    recipes = {one["name"]: one for one in listed["recipes"]}
    assert list(recipes) == sorted({"fruit", *BUILT_IN})
    assert recipes["fruit"] == {"name": "fruit", "summary": "Fruit or tool?", "presets": ["tiny"]}
    assert set(listed["broken"]) == {"exploding", "shapeless"}
    assert "no luck today" in listed["broken"]["exploding"]
    assert "peftkit.Recipe" in listed["broken"]["shapeless"]


def test_a_plugin_cannot_take_the_name_of_a_built_in_recipe(installed: Environment, tmp_path: Path) -> None:
    done = installed.peftkit("recipes", "--json", cwd=tmp_path)
    (found,) = (one for one in json.loads(done.stdout)["recipes"] if one["name"] == "sentiment")
    assert {"tiny", "12gb", "24gb", "48gb"} <= set(found["presets"])
    assert "Fruit" not in found["summary"]


@pytest.mark.parametrize("built_in_first", [True, False])
def test_the_order_of_installation_does_not_matter(built_in_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit import recipe

    points = [
        EntryPoint("sentiment", "peftkit_recipes.sentiment:recipe", recipe.GROUP),
        EntryPoint("sentiment", "nothing_of_this_name:recipe", recipe.GROUP),
    ]
    monkeypatch.setattr(recipe, "entry_points", lambda group: points if built_in_first else points[::-1])
    found = recipe.list_recipes()
    assert list(found.recipes) == ["sentiment"]
    assert found.recipes["sentiment"] is recipe.load_recipe("sentiment")
    assert found.broken == {}


def test_asking_for_a_broken_plugin_says_why(installed: Environment, tmp_path: Path) -> None:
    done = installed.peftkit("run", "exploding", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipe 'exploding'")
    assert "no luck today" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_plugin_runs_on_its_own_rows(installed: Environment, tiny_model: Path, tmp_path: Path) -> None:
    done = installed.peftkit("run", "fruit", "--out", "out", *settings(tiny_model), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/data.json").read_text(encoding="utf-8"))
    assert report["source"] == {"name": "six things", "asset": "fruit", "licence": "CC0-1.0"}
    assert report["read"] == report["kept"] == 6
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert summary["recipe"] == "fruit"
    assert summary["train"]["steps"] == 2
    assert list(summary["after"]) == ["accuracy"]
    assert (tmp_path / "out/adapter/adapter_model.safetensors").is_file()


def test_the_built_in_recipe_runs_from_the_wheel(
    installed: Environment, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    words = ["run", "sentiment", f"data.path={reviews}", "--out", "out", *settings(tiny_model)]
    done = installed.peftkit(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))["recipe"] == "sentiment"
    # Templates that the wheel lacked would be missed here.
    assert "<html" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out/adapter/README.md").stat().st_size > 500


@pytest.fixture
def peftkit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The command line in this process, which has imported the large libraries already."""
    from peftkit.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["peftkit", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, *capfd.readouterr()

    return call


def test_a_recipe_file_runs_by_path(peftkit, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RECIPE.format(name="mine"), encoding="utf-8")
    code, _, stderr = peftkit("run", "./mine.py", "--out", "out", *settings(tiny_model))
    assert code == 0, stderr
    summary = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert (summary["recipe"], summary["train"]["steps"]) == ("mine", 2)
    # What the run wrote says which file it was, so that the run can be judged again.
    code, stdout, _ = peftkit("eval", "out", "--json")
    assert code == 0
    assert json.loads(stdout)["after"] == summary["after"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("recipe = 3\n", "does not define `recipe`"),
        ("x = 1\n", "does not define `recipe`"),
        ("def broken(:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ("from peftkit import Recipe\nrecipe = Recipe('a', 'b', {}, (), {}, {})\n", "no preset 'tiny'"),
    ],
)
def test_a_broken_recipe_file_is_named_with_its_reason(peftkit, tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    code, stdout, stderr = peftkit("run", str(file), "--out", str(tmp_path / "out"))
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: recipe file '")
    assert reason in " ".join(stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_copied_and_edited_file_runs(
    peftkit, tiny_model: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert peftkit("recipes", "copy", "sentiment", "my.yaml")[0] == 0
    text = Path("my.yaml").read_text(encoding="utf-8")
    edits = {
        'path: "smollm2-135m-instruct"': f"path: {json.dumps(str(tiny_model))}",
        "path: null  # your rows": f"path: {json.dumps(str(reviews))}  #",
        "max_steps: 0": "max_steps: 2",
        "r: 16 ": "r: 4 ",
        "bootstrap_samples: 2000": "bootstrap_samples: 20",
        "max_rows: 400": "max_rows: 4",
    }
    for was, now in edits.items():
        assert text.count(was) == 1, was
        text = text.replace(was, now)
    Path("my.yaml").write_text(text, encoding="utf-8")
    code, stdout, stderr = peftkit("run", "my.yaml", "--out", "out", "train.max_steps=3")
    assert code == 0, stderr
    changed = {
        line.split()[0]: line.split()[-1] for line in stdout.splitlines() if line[:2] == "ad" or "train." in line
    }
    assert changed["adapter.r"] == "my.yaml"
    summary = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert summary["adapter"]["r"] == 4
    assert summary["train"]["steps"] == 3
