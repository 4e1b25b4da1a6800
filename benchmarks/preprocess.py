"""Measure preprocessing: read rows of 200 English words, find near-duplicates, check quality, encode, and split.

The texts are walks over the words of installed packages' documentation, each word drawn as the corpus follows the one
before it: words as frequent as in English, and hardly a sentence twice. Each measurement is a process of its own; the
second with the same `max_length` finds the token ids of the first in the cache.

python benchmarks/preprocess.py [--rows 100000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import machine
from peftkit.bench.envelope import result_of
from peftkit.bench.result import Result, Run, write_result
from peftkit.config import RunConfig
from peftkit.data import prepare
from peftkit.data.documentation import documented
from peftkit.data.encoders import make_encoder
from peftkit.data.read import read_data
from peftkit.model.load import find_model, load_tokenizer
from peftkit.resolve import resolve

HERE = Path(__file__).parent
PACKAGES = ("numpy", "scipy", "sklearn")
WORDS = 200
LENGTHS = {"nothing cut": 512, "every row cut": 256}
"""Values of `train.max_length`."""
STAGES = ("near_duplicate_groups", "encode_cached", "quality_report")
"""Functions of `peftkit.data.prepare` whose time is told apart; the first and last run beside the second."""


def main() -> None:
    """Write the rows, measure in processes of their own, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "preprocess")
    parser.add_argument("--measure", nargs=3, metavar=("FILE", "MODEL", "MAX_LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    machine.quiet_libraries()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.csv"
        write_rows(file, options.rows)
        runs = []
        for name, max_length in LENGTHS.items():
            for ids in ("encoded", "from the cache"):
                found = in_a_process(file, max_length)
                runs.append(Run(case=name, contestant=ids, round=1, measures=found))
                print(f"{name}, {ids}: {found['seconds']:.1f} s, {found['peak_rss'] / 1e9:.2f} GB", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_result(report(options.rows, runs), options.out)


def write_rows(file: Path, rows: int) -> None:
    """Write walks over the documentation's words, with one of two labels in turn."""
    words = [word for one in documented(PACKAGES) for word in f"{one.summary} {one.body}".split()]
    names = {word: number for number, word in enumerate(dict.fromkeys(words))}
    numbers = np.array([names[word] for word in words])
    counts = np.bincount(numbers)
    places = np.argsort(numbers, kind="stable")  # where each word stands, word after word
    starts = np.cumsum(counts) - counts
    random = np.random.default_rng(0)
    at = random.integers(len(words), size=rows)
    walks = np.empty((rows, WORDS), np.int64)
    for step in range(WORDS):
        walks[:, step] = word = numbers[at]
        at = (places[starts[word] + (random.random(rows) * counts[word]).astype(np.int64)] + 1) % len(words)
    known = list(names)
    with file.open("w", encoding="utf-8") as lines:
        lines.write("text,label\n")
        for number, walk in enumerate(walks):
            text = " ".join(known[word] for word in walk).replace('"', '""')
            lines.write(f'"{text}",{("negative", "positive")[number % 2]}\n')


def in_a_process(file: Path, max_length: int) -> dict[str, Any]:
    """Measure once, with a cache beside the file."""
    model = find_model(RunConfig(recipe="sentiment").model).path
    command = [sys.executable, __file__, "--measure", str(file), model, str(max_length)]
    environment = {**os.environ, "PEFTKIT_CACHE": str(file.parent / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"the measurement failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(file: str, model: str, max_length: str) -> dict[str, Any]:
    """Read and prepare the rows; return seconds by stage, and peak memory.

    `seconds` are by the clock, with those of each stage after a colon; `processor` are those of the thread that a stage
    runs in, with the tokenizer's own threads under `tokenizer`.
    """
    words = [
        f"data.path={file}",
        f"train.max_length={max_length}",
        f"model.path={model}",
    ]
    resolved = resolve("sentiment", words=words)
    config = resolved.config
    encoder = make_encoder("causal", load_tokenizer(find_model(config.model)), config)
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun, used = time.perf_counter(), time.thread_time()
            result = function(*args, **kwargs)
            seconds[name] = round(time.perf_counter() - begun, 2)
            processor[name] = round(time.thread_time() - used, 2)
            return result

        return run

    for name in STAGES:
        setattr(prepare, name, timed(name, getattr(prepare, name)))
    before = machine.peak_resident()

    def everything() -> prepare.Prepared:
        found = timed("read_data", read_data)(config, resolved.recipe)
        prepared: prepare.Prepared = timed("prepare_data", prepare.prepare_data)(config, found, encoder)
        return prepared

    used = time.process_time()
    data = timed("all", everything)()
    threads = sum(processor[name] for name in ("all", "near_duplicate_groups", "quality_report"))
    processor["tokenizer"] = round(time.process_time() - used - threads, 2)
    return {
        "seconds": seconds.pop("all"),
        **{f"seconds: {name}": value for name, value in seconds.items()},
        **{f"processor: {name}": value for name, value in processor.items()},
        "peak_rss_before": before,
        "peak_rss": machine.peak_resident(),
        "kept": data.report["kept"],
        "truncated": data.report["truncated"],
        "train_tokens": data.report["splits"]["train"]["tokens"]["total"],
    }


def report(rows: int, runs: list[Run]) -> Result:
    """Return the result."""
    return result_of(
        "preparing rows",
        "preprocess",
        f"python benchmarks/preprocess.py --rows {rows}",
        runs,
        summary=f"{rows:,} rows of {WORDS} English words: read, checked, encoded and split.",
        settings={
            "contestants": ["encoded", "from the cache"],
            "cases": {
                name: {"rows": {"count": rows}, "words": WORDS, "max_length": one} for name, one in LENGTHS.items()
            },
        },
    )


if __name__ == "__main__":
    main()
