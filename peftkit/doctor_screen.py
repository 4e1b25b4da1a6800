"""What `peftkit doctor` shows of its findings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from peftkit import machine
from peftkit.doctor import HUB_WORDS, LEAST_DISK
from peftkit.ui import UI, size


def show(ui: UI, found: Mapping[str, Any]) -> None:
    """Show what `diagnose` found, readable in 80 columns."""
    if ui.quiet:
        return
    _show_software(ui, found)
    _show_computing(ui, found["torch"])
    _show_quantization(ui, found)
    _show_rates(ui, found)
    _show_places(ui, found)
    ui.stage("Verdict")
    ui.say(f"fits: {found['fits']}")
    for problem in found["problems"]:
        ui.say(f"{_mark(False)} {problem['what']}", style="yellow")
        ui.lines(f"    {problem['do']}")
    if not found["problems"]:
        ui.say(f"{_mark(True)} no problems", style="green")


def _show_software(ui: UI, found: Mapping[str, Any]) -> None:
    ui.stage("Software")
    python = found["python"]
    rows = [(_mark(python["ok"]), "python", python["version"], python["needs"])]
    needs = {row["name"]: row for row in found["packages"]}
    for name, installed in found["versions"].items():
        if name not in needs:
            rows.append((_mark(True), name, installed, ""))
    for row in found["packages"]:
        if row["name"] in machine.PACKAGES or not row["ok"]:
            rows.append((_mark(row["ok"]), row["name"], row["installed"] or "missing", row["needs"]))
    ui.table(("", "package", "installed", "needed"), rows)
    good = sum(row["ok"] for row in found["packages"])
    ui.say(f"{good} of the {len(found['packages'])} packages that peftkit needs are here in the right version")


def _show_computing(ui: UI, torch: Mapping[str, Any]) -> None:
    ui.stage("Computing")
    if torch["error"]:
        ui.say(f"{_mark(False)} torch cannot be used: {torch['error']}", style="yellow")
        return
    ui.say(f"{_mark(True)} torch is built for {torch['build']}; dtype auto is {torch['dtype']} on {torch['device']}")
    rows = []
    for gpu in torch["gpus"]:
        free = "?" if gpu["free"] is None else size(gpu["free"])
        rows.append((gpu["name"], size(gpu["memory"]), free, gpu["capability"], _mark(gpu["bfloat16"])))
    if rows:
        ui.table(("CUDA GPU", ">memory", ">free", ">capability", "bfloat16"), rows)
    else:
        ui.say(f"{_mark(False)} no CUDA GPU")
    processor = torch["processor"]
    ui.say(f"{processor['name']}, {processor['cores']} cores")
    names = {"avx2": "AVX2", "avx512": "AVX512", "avx512_bf16": "AVX512-BF16", "amx": "AMX"}
    ui.say("   ".join(f"{_mark(processor[key])} {name}" for key, name in names.items()))


def _show_quantization(ui: UI, found: Mapping[str, Any]) -> None:
    ui.stage("Quantization, tried out")
    rows = [(_mark(not reason), kind, reason or "works") for kind, reason in found["quantization"].items()]
    ui.table(("", "model.quantization", "forward and backward of a small layer"), rows)


def _show_rates(ui: UI, found: Mapping[str, Any]) -> None:
    rates, torch = found["rates"], found["torch"]
    if torch["error"]:
        return
    ui.stage("Speed, measured and kept for forecasts")
    if rates is None:
        ui.say("not measured; `peftkit doctor` without --quick does it in a few seconds")
        return
    half = "float16" if torch["dtype"] == "float16" else "bfloat16"
    rows = [
        (f"products in {half}", _per_second(rates["half"], "FLOP")),
        ("products in float32", _per_second(rates["single"], "FLOP")),
        ("copies in its memory", _per_second(rates["copy"], "B")),
    ]
    if rates["link"] is not None:
        rows.append(("copies from main memory", _per_second(rates["link"], "B")))
    if rates["context"] is not None:
        rows.append(("GPU memory that CUDA keeps", size(rates["context"])))
    ui.table((f"of layers on {torch['device']}", ">measured"), rows)


def _per_second(rate: float, what: str) -> str:
    unit, prefix = (1e12, "T") if rate >= 1e12 else (1e9, "G")
    return f"{rate / unit:.3g} {prefix}{what}/s"


def _show_places(ui: UI, found: Mapping[str, Any]) -> None:
    ui.stage("Memory, disk and hub")
    memory = found["memory"]
    if memory["total"] is not None:
        ui.say(f"memory: {size(memory['available'])} available of {size(memory['total'])}")
    names = {"cache": "cache", "here": "this folder"}
    rows = []
    for name, place in found["disk"].items():
        good = place["writable"] and place["free"] >= LEAST_DISK
        rows.append((_mark(good), names[name], size(place["free"]), place["folder"]))
    ui.table(("", "folder", ">free", "path"), rows)
    rows = []
    for asset in found["cache"]["assets"]:
        here = "yes" if asset["cached"] else "no: fetched when needed, or by `peftkit assets fetch`"
        rows.append((_mark(asset["cached"]), asset["name"], size(asset["size"]), here))
    ui.table(("", "asset", ">size", "in the cache"), rows)
    hub = found["hub"]
    words = [f"{name} {hub[name] or 'not set'}" for name in HUB_WORDS]
    words.append(f"HF_HUB_OFFLINE {'on' if hub['HF_HUB_OFFLINE'] else 'off'}")
    words.append(f"token {'set' if hub['token'] else 'not set'}")
    ui.say("hub: " + ", ".join(words))


def _mark(good: bool) -> str:
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok" if good else "no"
    return "✓" if good else "✗"
