"""What this machine can do, and what to install or change where something is missing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peftkit import machine
from peftkit.errors import first_line
from peftkit.recipe import Recipe, list_recipes
from peftkit.ui import size

KINDS = ("nf4", "fp4", "int8")
"""Values of `model.quantization` that need bitsandbytes."""

_LEAST_MEMORY = 2_000_000_000  # bytes; the preset `tiny` peaks just below
LEAST_DISK = 1_000_000_000  # bytes; the embedded assets and the converted model take 0.4 GB, a run's folder the rest
_LEAST_FREE_SHARE = 0.75  # of a GPU's memory; this process itself takes some
_MAX_ERROR = 0.4  # of a quantized product, relative: 4-bit kinds stay below 0.2
HUB_WORDS = ("HF_HOME", "HF_ENDPOINT")


def diagnose(*, measure: bool = False) -> dict[str, Any]:
    """Return what this machine is and can do, as plain values for JSON; sizes are in bytes.

    With `measure`, its rates are measured in a few seconds and kept for forecasts; else those kept before are told.
    `quantization` was tried out, not looked up. Each of `problems` has `what` and `do`. Nothing that is missing or
    broken raises, and no secret is in what comes back.
    """
    with _silence():
        torch = _torch()
        recipes = list_recipes()
        found = {
            "python": _python(),
            "versions": machine.versions(),
            "packages": _packages(),
            "torch": torch,
            "quantization": _quantization(torch),
            "rates": _rates(torch, measure),
            "memory": _memory(),
            "disk": _disk(),
            "cache": _cache(),
            "hub": _hub(),
            "fits": _fits(torch, list(recipes.recipes.values())),
            "broken_recipes": dict(recipes.broken),
        }
    return {**found, "problems": _problems(found)}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what libraries say at their import off both streams: reasons come back as values."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(Exception):  # a library is missing or broken: this is found out one by one below
                machine.quiet_libraries()
            yield
    finally:
        logging.disable(disabled)


def _python() -> dict[str, Any]:
    from packaging.specifiers import SpecifierSet

    try:
        needs = metadata("peftkit")["Requires-Python"]
    except PackageNotFoundError:
        needs = ""
    running = platform.python_version()
    return {"version": running, "needs": needs, "ok": SpecifierSet(needs).contains(running, prereleases=True)}


def _packages() -> list[dict[str, Any]]:
    """Return name, installed version (None if missing), needed range and whether it holds, for each requirement."""
    from packaging.requirements import Requirement

    try:
        lines = requires("peftkit") or []
    except PackageNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = None
        ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        bounds = sorted(map(str, requirement.specifier), key=lambda bound: not bound.startswith(">"))
        rows.append({"name": requirement.name, "installed": installed, "needs": ",".join(bounds), "ok": ok})
    return rows


def _torch() -> dict[str, Any]:
    """Return torch's build, the devices that it sees, and what `auto` means; `error` says why there is none of it."""
    found: dict[str, Any] = {"error": None, "build": None, "gpus": [], "processor": None, "device": None, "dtype": None}
    try:
        import torch

        cuda, rocm = torch.version.cuda, torch.version.hip
        found["build"] = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU"
        found["gpus"] = (
            [_gpu(index) for index in range(torch.cuda.device_count())] if machine.device() == "cuda" else []
        )
        described = machine.describe()
        cpu = torch.cpu
        found["processor"] = {
            "name": described["cpu"],
            "cores": described["cores"],
            "avx2": cpu._is_avx2_supported(),
            "avx512": cpu._is_avx512_supported(),
            "avx512_bf16": cpu._is_avx512_bf16_supported(),
            "amx": cpu._is_amx_tile_supported(),
        }
        found |= {"device": machine.device(), "dtype": machine.fast_dtype()}
    except Exception as error:  # a broken installation fails in many ways
        found["error"] = first_line(error)
    return found


def _gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    try:
        free: int | None = torch.cuda.mem_get_info(index)[0]
    except RuntimeError:  # no memory left to ask with
        free = None
    return {
        "name": properties.name,
        "memory": properties.total_memory,
        "free": free,
        "capability": f"{properties.major}.{properties.minor}",
        "bfloat16": properties.major >= 8,
    }


def _quantization(torch: Mapping[str, Any]) -> dict[str, str | None]:
    """Return for each kind None if it works on the device of a run, else the reason why it does not."""
    if torch["error"]:
        return dict.fromkeys(KINDS, "torch cannot be used")
    reasons: dict[str, str | None] = {}
    for kind in KINDS:
        try:
            reasons[kind] = _try(kind, torch["device"], torch["dtype"])
        except Exception as error:  # whatever fails, it is the answer
            reasons[kind] = first_line(error)
    return reasons


def _try(kind: str, device: str, dtype_name: str) -> str | None:
    """Pass something through a small quantized layer and back, and compare with the layer before quantization."""
    import torch

    nn: Any = import_module("bitsandbytes.nn")
    dtype = getattr(torch, dtype_name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "int8":
            layer = nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=6.0)
        else:
            layer = nn.Linear4bit(64, 64, bias=False, compute_dtype=dtype, quant_type=kind)
            layer.support_avx512bf16_for_cpu = False  # as peftkit.model.load does: a repacked layer passes no gradient
        weight = layer.weight.detach().float().clone()
        layer = layer.to(device)
        values, gradient = torch.randn(2, 8, 64).to(device, dtype)
    values.requires_grad_()
    product = layer(values)
    product.backward(gradient)
    if values.grad is None:
        return "no gradient comes back"
    weight = weight.to(device)
    for what, got, expected in (
        ("product", product, values.float() @ weight.T),
        ("gradient", values.grad, gradient.float() @ weight),
    ):
        error = float((got.float() - expected).norm() / expected.norm())
        if not error < _MAX_ERROR:  # also if it is not a number
            return f"its {what} is off by {error:.0%}"
    return None


def _rates(torch: Mapping[str, Any], measure: bool) -> dict[str, Any] | None:
    """Return how fast this machine multiplies and copies, in operations and bytes a second; None where not measured."""
    if torch["error"]:
        return None
    from peftkit.plan.rates import kept_rates, measure_and_keep

    try:
        rates = measure_and_keep() if measure else kept_rates()
    except RuntimeError:  # no memory left to measure with: `_gpu` says so
        return None
    return None if rates is None else asdict(rates)


def _memory() -> dict[str, int | None]:
    try:
        import psutil
    except ImportError:
        return {"total": None, "available": None}
    memory = psutil.virtual_memory()
    return {"total": memory.total, "available": memory.available}


def _disk() -> dict[str, dict[str, Any]]:
    """Return free bytes, and whether this user may write, where the cache is or will be, and where runs are written."""
    from peftkit.model.assets import cache_folder

    found = {}
    for name, folder in {"cache": cache_folder(), "here": Path.cwd()}.items():
        existing = next(parent for parent in (folder, *folder.parents) if os.access(parent, os.F_OK))
        found[name] = {
            "folder": str(folder),
            "free": shutil.disk_usage(existing).free,
            "writable": existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
        }
    return found


def _cache() -> dict[str, Any]:
    from peftkit.model.assets import assets_table, cache_folder

    assets: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):  # a folder that may not be looked into: `disk` says so
        assets = assets_table()
    return {"folder": str(cache_folder()), "assets": assets}


def _hub() -> dict[str, Any]:
    """Return the hub's settings: None for what is not set, and of the token only whether there is one."""
    found: dict[str, Any] = {name: os.environ.get(name) or None for name in HUB_WORDS}
    if found["HF_ENDPOINT"]:
        found["HF_ENDPOINT"] = _without_secrets(found["HF_ENDPOINT"])
    found["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    found["token"] = bool(os.environ.get("HF_TOKEN"))
    with contextlib.suppress(Exception):  # a hub library that cannot be imported has no token either
        found["token"] = found["token"] or Path(import_module("huggingface_hub.constants").HF_TOKEN_PATH).is_file()
    return found


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _fits(torch: Mapping[str, Any], recipes: Sequence[Recipe]) -> str:
    """Name the largest preset of any recipe that this machine could take."""
    from peftkit.screen import preset_advice

    if torch["error"] or not recipes:
        return "not known while torch cannot be used" if torch["error"] else "not known without a recipe"
    # One name can ask for different memory in two recipes: the larger demand stands last and stays.
    every = sorted((one for recipe in recipes for one in recipe.presets.items()), key=lambda one: one[1].memory)
    return preset_advice(replace(recipes[0], name="RECIPE", presets=dict(every)), "tiny")


def _problems(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Derive from the facts what stands in the way of a run, and what to do about each."""
    parts = (_software_problems, _torch_problems, _quantization_problems, _place_problems)
    return [{"what": what, "do": do} for part in parts for what, do in part(found)]


def _software_problems(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    python = found["python"]
    if not python["ok"]:
        yield f"Python is {python['version']}", f"install peftkit in an environment with Python {python['needs']}"
    if not found["packages"]:
        yield "peftkit runs from its source folder and is not installed", "pip install -e ."
    for row in found["packages"]:
        if not row["ok"]:
            what = f"is {row['installed']}, outside {row['needs']}" if row["installed"] else "is missing"
            yield f"{row['name']} {what}", f"pip install {_requirement(found, row['name'])}"
    for reason in found["broken_recipes"].values():
        yield reason, "update or uninstall the package that brings this recipe"


def _torch_problems(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    torch = found["torch"]
    if torch["error"]:
        if not _is_missing(found, "torch"):
            do = f"pip install --force-reinstall {_requirement(found, 'torch')}"
            yield f"torch cannot be used: {torch['error']}", do
        return
    if not torch["gpus"] and _has_nvidia():
        if torch["build"] == "CPU":
            do = "install torch's CUDA build: https://pytorch.org/get-started/locally/"
        elif "CUDA_VISIBLE_DEVICES" in os.environ:
            do = "unset CUDA_VISIBLE_DEVICES"
        else:
            do = "update the NVIDIA driver: `nvidia-smi` names the newest CUDA version that it can run"
        yield f"there is an NVIDIA GPU that torch (built for {torch['build']}) does not see", do
    for gpu in torch["gpus"]:
        if gpu["free"] is not None and gpu["free"] < _LEAST_FREE_SHARE * gpu["memory"]:
            what = f"only {size(gpu['free'])} of the {size(gpu['memory'])} of {gpu['name']} are free"
            yield what, "end the programs that hold the rest: `nvidia-smi` lists them"


def _quantization_problems(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    failed = {kind: reason for kind, reason in found["quantization"].items() if reason}
    if not failed or found["torch"]["error"] or _is_missing(found, "bitsandbytes"):
        return
    working = [kind for kind in KINDS if kind not in failed]
    if not working:
        do = f"pip install --force-reinstall {_requirement(found, 'bitsandbytes')}, or set model.quantization=none"
        yield f"bitsandbytes cannot be used: {next(iter(failed.values()))}", do
        return
    for kind, reason in failed.items():
        yield f"quantization {kind} does not work here: {reason}", f"set model.quantization={working[0]}"


def _place_problems(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    available = found["memory"]["available"]
    if not found["torch"]["gpus"] and available is not None and available < _LEAST_MEMORY:
        do = f"close other programs: the smallest preset needs {size(_LEAST_MEMORY)}"
        yield f"only {size(available)} of memory are available", do
    for name, place in found["disk"].items():
        change = "set PEFTKIT_CACHE to another folder" if name == "cache" else "use --out with another folder"
        if not place["writable"]:
            yield f"{place['folder']} cannot be written to", f"make it writable, or {change}"
        elif place["free"] < LEAST_DISK:
            yield f"only {size(place['free'])} are free in {place['folder']}", f"free space, or {change}"


def _is_missing(found: Mapping[str, Any], name: str) -> bool:
    return any(row["name"] == name and row["installed"] is None for row in found["packages"])


def _requirement(found: Mapping[str, Any], name: str) -> str:
    """Write a requirement as a shell takes it: 'torch>=2.11,<2.14', quotes included."""
    return f"'{name}{next((row['needs'] for row in found['packages'] if row['name'] == name), '')}'"


def _has_nvidia() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
