"""Conversations to fine-tune on, made of the documentation of installed packages."""

import json
from pathlib import Path

SYSTEM = "You answer questions about Python libraries in one short sentence."


def write_conversations(path: Path, most: int = 1500) -> None:
    """Write JSON lines of chat messages; every third conversation has a second question."""
    from peftkit.recipe import load_recipe

    embedded = load_recipe("summarization").embedded
    assert embedded is not None
    rows = [row for row in embedded.rows() if row is not None][: 2 * most]
    with path.open("w", encoding="utf-8") as file:
        while rows and most:
            several = [rows.pop() for _ in range(2 if most % 3 == 0 and len(rows) > 1 else 1)]
            messages = [{"role": "system", "content": SYSTEM}]
            for row in several:
                question = f"What is this for?\n\n{' '.join(row['document'].split()[:60])}"
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": row["summary"]}]
            file.write(json.dumps({"messages": messages}) + "\n")
            most -= 1
