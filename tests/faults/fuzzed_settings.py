"""Configurations that chance made of good ones: changed as text, changed as values, and as words of a command line.

`python fuzzed_settings.py FROM TO FOLDER` resolves those of the seeds from FROM to TO, each in this process, and prints
as JSON how they ended; `python fuzzed_settings.py payloads FOLDER` does so with the hostile files.
"""

import json
import os
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import yaml

RECIPES = ("sentiment", "classification", "regression", "summarization", "instruct", "completion")
PIECES = (
    *(
        "!!python/object:os.system ",
        "!!binary ",
        "!!set ",
        "&a ",
        "*a",
        "<<: ",
        "---\n",
        "...\n",
        "? ",
        "- ",
        ": ",
        "{",
    ),
    *(
        "}",
        "[",
        "]",
        ",",
        "#",
        "|\n",
        ">\n",
        "%YAML 1.1\n",
        "'",
        '"',
        "\\",
        "\\ud800",
        "\\x00",
        "\0",
        "\t",
        "\r",
        "\u2028",
    ),
    *(
        "\ufeff",
        "\x85",
        "\ue000",
        "é",
        "🙂",
        "\n",
        "\n  ",
        "\n    ",
        "~",
        "null",
        "true",
        "no",
        ".nan",
        "-.inf",
        "1e999",
    ),
    *("0x7f", "0o17", "017", "1_000", "1:30", "2026-01-01", "9" * 30, "9" * 5000, "-1", "0.5", "x" * 300, "{text}"),
    *("{label}", "{}", "sql:postgresql://me:secret@host/a#select 1", "hf_" + "A1b2C3d4E5" * 4, "../../etc", "@", "`"),
)
VALUES = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        8,
        0.5,
        1e-4,
        1.5,
        -0.0,
        2**31,
        2**63,
        10**30,
        10**400,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "a",
        "true",
        "null",
        "1",
        "auto",
        "none",
        "nf4",
        "lora",
        "dora",
        "adamw",
        "lion",
        "cosine",
        "text",
        "head",
    ),
    *("{text}", "{label}", "{text} {label}", "{nosuch}", "a,b", "positive,negative", "x" * 500, "\n", "é🙂", "\ud800"),
    *([], ["a"], ["a", "b"], [None], [["a"]], [1, 2.5, True], {}, {"a": 1}, {"a": {"b": [1, None]}}, {"1": "positive"}),
    *(
        "classification",
        "regression",
        "chat",
        "completion",
        "generation",
        "skip",
        "error",
        "all-linear",
        "q_proj,v_proj",
    ),
    *(
        "hf:a/b",
        "sql:sqlite:///a.db#select 1",
        "*.csv",
        "-",
        "cross_entropy",
        "focal",
        "mse",
        "pissa",
        "hf_" + "aB3" * 12,
    ),
)
NAMES = (
    "a",
    "text",
    "1",
    "positive",
    "token",
    "seed",
    "x.y",
    "",
    "é",
    "beta1",
    "rank_pattern",
    "trust_remote_code",
    "*",
)


def fitting(chance, name, good):
    """A value that a key likely takes: that of a good configuration, or a number near it; else any."""
    usual = good.get(name)
    if chance.random() < 0.3:
        return value(chance)
    if isinstance(usual, int | float) and not isinstance(usual, bool):
        return chance.choice((usual, usual * 2, usual / 2, usual + 1, str(usual)))
    return usual


def value(chance):
    """A value that may or may not be of the right type."""
    if chance.random() < 0.15:
        return [value(chance) for _ in range(chance.randrange(4))]
    if chance.random() < 0.1:
        return {chance.choice(NAMES): value(chance) for _ in range(chance.randrange(3))}
    return chance.choice(VALUES)


def key(chance, keys):
    """A known key, now and then one that is not."""
    if chance.random() < 0.05:
        return ".".join(chance.choice(NAMES) for _ in range(chance.randrange(1, 5)))
    return chance.choice(keys).replace("NAME", chance.choice(NAMES))


def by_values(chance, keys, good):
    """Nested settings with a few values of chance, as YAML or as JSON, which is YAML too."""
    nested: dict = {}
    for _ in range(chance.randrange(1, 6)):
        inside = nested
        name = key(chance, keys)
        *path, last = name.split(".")
        for group in path:
            inside = inside.setdefault(group, {})
            if not isinstance(inside, dict):
                break
        else:
            inside[last] = fitting(chance, name, good)
    if chance.random() < 0.5:
        return yaml.safe_dump(nested, allow_unicode=chance.random() < 0.5, default_flow_style=None)
    return json.dumps(nested, ensure_ascii=chance.random() < 0.5)


def by_text(chance, texts):
    """A piece of a good file with pieces cut out, put in, doubled, and bytes that are no text."""
    blocks = re.findall(r"^\S.*\n(?:(?: .*)?\n)*", chance.choice(texts), flags=re.MULTILINE)
    text = "".join(chance.sample(blocks, chance.randrange(1, 3)))
    for _ in range(chance.randrange(1, 4)):
        first, last = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        last = min(last, first + chance.randrange(1, 30))
        piece = chance.choice((chance.choice(PIECES), "", text[first:last] * 2, chr(chance.randrange(1, 0xD800))))
        text = text[:first] + piece + text[last:]
    return text


def words(chance, keys, good):
    """Words of a command line."""
    said = []
    for _ in range(chance.randrange(1, 5)):
        name = key(chance, keys)
        one = fitting(chance, name, good)
        text = one if isinstance(one, str) and chance.random() < 0.9 else json.dumps(one)
        if chance.random() < 0.1:
            text += chance.choice(PIECES)
        said.append(name + chance.choice(["="] * 20 + ["", "==", ": "]) + text)
    return said


def fuzzed(seed, texts, keys, goods):
    """Return a recipe, the bytes of a file, and words, by a seed."""
    chance = random.Random(seed)
    recipe = chance.choice(RECIPES)
    good = goods[recipe]
    kind = seed % 4
    if kind == 0:
        return recipe, b"", words(chance, keys, good)
    text = by_values(chance, keys, good) if kind == 1 else by_text(chance, texts)
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if kind == 3 and content:
        for _ in range(chance.randrange(3)):
            content[chance.randrange(len(content))] = chance.randrange(256)
    return recipe, bytes(content), words(chance, keys, good) if chance.random() < 0.1 else []


def outcome(recipe, path, given):
    """Resolve settings; say how that ended, and whether what is written of them is read as the same."""
    from peftkit.errors import PeftkitError
    from peftkit.resolve import resolve
    from peftkit.yaml_file import to_yaml

    try:
        config = resolve(recipe, file=path, words=given).config
    except PeftkitError as error:
        return type(error).__name__ if len(str(error)) > 0 and "Traceback" not in str(error) else "says nothing"
    except Exception as error:
        return f"crash: {type(error).__name__}: {error}"
    try:
        text = to_yaml(config)
        path = path.with_name("again.yaml") if path else Path("again.yaml")
        path.write_text(text, encoding="utf-8", newline="\n")
        again = resolve(recipe, file=path).config
    except Exception as error:
        return f"not written and read: {type(error).__name__}: {error}"
    return "loads" if again == config and to_yaml(again) == text else "is read as something else"


def resolve_all(seeds, folder: Path):
    """Resolve configurations by their seeds; count how they ended, with the worst of them."""
    from peftkit.resolve import flat_values, known_keys, resolve
    from peftkit.yaml_file import to_yaml

    configs = {recipe: resolve(recipe).config for recipe in RECIPES}
    texts = [to_yaml(config, comments=comments) for config in configs.values() for comments in (False, True)]
    goods = {recipe: flat_values(config) for recipe, config in configs.items()}
    keys = known_keys()
    outcome("sentiment", None, ["train.extra.dataloader_num_workers=0", "adapter.extra.bias=none", "train.optim=lion"])
    ended: Counter[str] = Counter()
    bad, longest, most = {}, 0.0, 0
    path = folder / "fuzzed.yaml"
    for seed in seeds:
        recipe, content, given = fuzzed(seed, texts, keys, goods)
        path.write_bytes(content)
        begun, before = time.process_time(), peak(fresh=True)
        one = outcome(recipe, path if content else None, given)
        longest, most = max(longest, time.process_time() - begun), max(most, peak() - before)
        kind = one.partition(":")[0]
        ended[kind] += 1
        if kind not in ("loads", "says nothing") and not kind.endswith("Error"):
            bad[seed] = one
    return {"ended": dict(sorted(ended.items())), "bad": bad, "longest_seconds": longest, "peak_bytes": most}


def peak(*, fresh: bool = False) -> int:
    """Most bytes that this process held; fresh, counted from now on. Zero where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if fresh:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])


def resolve_payloads(folder: Path):
    """Resolve hostile files; say what each took of the processor's time, and of memory."""
    sys.path.insert(0, str(Path(__file__).parent))
    from hostile_yaml import PAYLOADS

    path = folder / "mine.yaml"
    path.write_text("train: {optim: no optimizer}")
    outcome("sentiment", path, [])
    found = {}
    for name, payload in PAYLOADS.items():
        path.write_bytes(payload.content)
        begun, before = time.process_time(), peak(fresh=True)
        ended = outcome("sentiment", path, [])
        found[name] = {"ended": ended, "seconds": time.process_time() - begun, "bytes": peak() - before}
    return found


if __name__ == "__main__":
    os.chdir(sys.argv[-1])
    here = Path.cwd()
    found = (
        resolve_payloads(here)
        if sys.argv[1] == "payloads"
        else resolve_all(range(int(sys.argv[1]), int(sys.argv[2])), here)
    )
    print(json.dumps(found))
