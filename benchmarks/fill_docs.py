"""Put the figures of `results/` into README.md and docs/*.md, between the markers that name them.

python benchmarks/fill_docs.py [--check]
"""

import argparse
import re
import sys
from pathlib import Path

from pages import adapters, faults, planning, recipes, speed

ROOT = Path(__file__).parents[1]
BLOCKS = recipes.BLOCKS | planning.BLOCKS | faults.BLOCKS | adapters.BLOCKS | speed.BLOCKS
PLACE = re.compile(r"(<!-- ([a-z-]+) -->\n?).*?(<!-- /\2 -->)", flags=re.S)


def main() -> None:
    """Fill in every block; with `--check`, fail if a page would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
    placed = [found[2] for text in pages.values() for found in PLACE.finditer(text)]
    if sorted(placed) != sorted(BLOCKS):
        sys.exit(f"each of these blocks has one place in README.md and docs: {sorted(BLOCKS)}; found: {sorted(placed)}")
    for path, text in pages.items():
        filled = PLACE.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], text)
        if options.check and filled != text:
            sys.exit(f"{path.name} has other figures than benchmarks/results; run python benchmarks/fill_docs.py")
        path.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
