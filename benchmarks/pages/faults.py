"""What was proved of runs that are killed, damaged, or given bad input."""

from .common import LIBRARIES, machine, read


def faults() -> str:
    """Return what became of the runs that were killed at random instants."""
    row = read("faults.json")["kills"]
    return (
        f"Of {row['tried']} kills of short runs at random instants, {row['passed']} ended in the same bytes as a run "
        f"that was left alone (`{row['command']}`, {row['date']})."
    )


def fault_rows() -> str:
    """Return the table of all rows."""
    rows = read("faults.json")
    lines = ["| row | what is proved | tried | held | date |", "| --- | --- | ---: | ---: | --- |"]
    for name, row in rows.items():
        part = "" if row["done"] == row["cases"] else f" ({row['done']} of {row['cases']} cases)"
        cells = (f"`{name}`", row["what"], f"{row['tried']:,}{part}", f"{row['passed']:,}", row["date"])
        lines.append(f"| {' | '.join(cells)} |")
    machines = "; ".join(sorted({machine(row["machine"]) for row in rows.values()}))
    versions = {name: sorted({row["versions"][name] for row in rows.values()}) for name in LIBRARIES}
    named = ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())
    return "\n".join(lines) + f"\n\n{machines}; {named}; `python benchmarks/faults.py ROW`.\n"


BLOCKS = {"faults": faults, "fault-rows": fault_rows}
