"""Measure what merging does to a QLoRA adapter: train one on the embedded model, merge it in each way, and compare.

python benchmarks/merge_qlora.py [--run RUN]
"""

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit import machine, pipeline
from peftkit.merge.given import Weighted
from peftkit.merge.merge import merge
from peftkit.ui import UI

HERE = Path(__file__).parent
WAYS: dict[str, dict[str, Any]] = {
    "onto trained": {"onto": "trained"},
    "onto original": {"onto": "original"},
    "the better one": {},
    "onto original, then nf4": {"onto": "original", "quantize": "nf4"},
}
WORDS = ("data.train_rows=400", "evaluate.max_rows=100", "model.quantization=nf4")


def main() -> None:
    """Train or take a run, merge it in each way, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="Folder of a run with model.quantization=nf4, to save the training.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "merge-qlora-cpu.json")
    options = parser.parse_args()
    machine.quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or pipeline.run("sentiment", words=WORDS, out=Path(scratch) / "run", ui=UI()).folder
        found = {name: merged(run, Path(scratch) / name.replace(" ", "-"), **how) for name, how in WAYS.items()}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/merge_qlora.py",
        "run": "peftkit run sentiment " + " ".join(WORDS),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "ways": found,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def merged(run: Path, out: Path, **how: Any) -> dict[str, Any]:
    """Merge a run and return what the proof found."""
    record = merge([Weighted(run)], out, ui=UI(), **how)
    model = record["proof"]["model"]
    return {
        "onto": record["onto"],
        "choice": record["choice"],
        "realised": record["proof"]["files"] and record["proof"]["files"]["realised"],
        "failures": record["proof"]["failures"],
        **{name: model[name] for name in ("rows", "to_merged", "to_trained", "to_base")},
        "accuracy": {which: model["metrics"][which]["accuracy"] for which in ("live", "merged", "difference")},
    }


if __name__ == "__main__":
    main()
