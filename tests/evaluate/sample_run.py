"""A run's folder as a real run leaves it: realistic sizes and curves, and the same bytes each time."""

import json
import math
import random
from pathlib import Path

LABELS = ("negative", "positive")
OPENINGS = {
    "negative": ["a tired and joyless", "an overlong, muddled", "a film that never finds its feet: a"],
    "positive": ["a warm and quietly funny", "an astonishingly well acted", "a small marvel: a"],
}
MIDDLES = ["comedy about three sisters", "thriller set in a lighthouse", "portrait of a town after the mine closed"]
ENDS = [
    "whose last act says everything twice",
    "that trusts its audience",
    "with a score that will not leave your head",
]
CONFIG = """recipe: sentiment
model:
  name: smollm2-135m-instruct
  quantization: nf4
adapter:
  method: lora
  r: 16
  lora_alpha: 32
train:
  learning_rate: 0.0002
  per_device_train_batch_size: 8
  num_train_epochs: 1.0
  max_length: 128
seed: 42
"""


def interval(value, half, n=400):
    return {"value": value, "low": max(value - half, -1), "high": min(value + half, 1), "n": n}


def summary():
    return {
        "schema": 1,
        "recipe": "sentiment",
        "preset": "tiny",
        "model": "smollm2-135m-instruct",
        "quantization": "nf4",
        "started": "2026-11-23T19:45:00+00:00",
        "finished": "2026-11-23T19:51:42+00:00",
        "before": {
            "accuracy": {"value": 0.02, "low": 0.0107, "high": 0.039, "n": 400},
            "macro_f1": interval(0.039, 0.019),
            "likelihood_accuracy": interval(0.5825, 0.048),
            "valid_answers": interval(0.0325, 0.018),
        },
        "after": {
            "accuracy": {"value": 0.865, "low": 0.828, "high": 0.895, "n": 400},
            "macro_f1": interval(0.8649, 0.033),
            "likelihood_accuracy": interval(0.8675, 0.033),
            "valid_answers": {"value": 0.995, "low": 0.982, "high": 0.9986, "n": 400},
        },
        "difference": {
            "accuracy": {"value": 0.845, "low": 0.809, "high": 0.881, "n": 400},
            "macro_f1": interval(0.8259, 0.036),
            "likelihood_accuracy": interval(0.285, 0.055),
            "valid_answers": interval(0.9625, 0.019),
        },
        "metrics": {
            key: {"name": name, "percent": True, "better": "higher"}
            for key, name in (
                ("accuracy", "Accuracy"),
                ("macro_f1", "Macro-F1"),
                ("likelihood_accuracy", "Accuracy (by label likelihood)"),
                ("valid_answers", "Valid answers"),
            )
        },
        "mcnemar": {"fixed": 340, "broken": 2, "p_value": 1e-80},
        "majority": {"label": "negative", "share": 0.51, "given_to_all": None},
        "time": {
            "total": 402.1,
            "stages": {
                "data": 3.1,
                "model": 5.0,
                "evaluate_before": 95.2,
                "train": 240.0,
                "evaluate_after": 56.8,
                "write": 2.0,
            },
        },
        "memory": {"peak_rss": 1_900_000_000, "peak_cuda_allocated": None, "peak_cuda_reserved": None},
        "tokens_per_second": 221.4,
        "tokens": {"train": 52000, "trained": 2100, "padding_share": 0.03},
        "adapter": {
            "method": "lora",
            "r": 16,
            "trainable_parameters": 4_884_480,
            "total_parameters": 139_400_000,
            "bytes": 19_600_000,
        },
        "train": {"steps": 120, "epochs": 1.0, "final_loss": 0.18},
        "versions": {
            "peftkit": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "trl": "1.16.0",
            "peft": "0.21.2",
        },
        "machine": {
            "cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz",
            "cores": 2,
            "memory": 25_000_000_000,
            "gpu": None,
            "python": "3.11.7",
            "platform": "Linux-6.1-x86_64",
        },
    }


def metrics(steps=120):
    chance = random.Random(1)
    lines = []
    for step in range(1, steps + 1):
        rate = 2e-4 * min(step / 6, 0.5 * (1 + math.cos(math.pi * step / steps)))
        lines.append(
            {
                "step": step,
                "epoch": step / steps,
                "loss": 0.17 + 3.0 * math.exp(-step / 12) + chance.uniform(-0.1, 0.16) * (1 + 3 / step),
                "learning_rate": rate,
                "grad_norm": chance.uniform(1, 5),
                "tokens_per_second": 221 + chance.gauss(0, 9),
                "memory": 1.45e9 + 2.5e8 * (1 - math.exp(-step / 8)) + chance.uniform(0, 4e7),
                "seconds": 2.0 * step,
                "tokens": 430 * step,
            }
        )
    return lines


def answered(chance, expected, right, fluent):
    """An answer with scores that agree with it; an untrained model talks instead of naming a label."""
    other = LABELS[expected == LABELS[0]]
    label = expected if right or (not fluent and chance.random() < 0.6) else other
    gap = abs(chance.gauss(2.0, 1.0)) + 0.05
    scores = {label: -0.2, LABELS[label == LABELS[0]]: -0.2 - gap}
    if fluent:
        return {"answer": label, "label": label, "correct": right, "scores": scores}
    return {"answer": f"I think this review is rather {label}.", "label": None, "correct": False, "scores": scores}


def predictions(rows=400):
    """As the summary says: 8 right before, 340 fixed, 2 broken; 13 valid answers before, all but 2 after."""
    chance = random.Random(2)
    fates = ["kept"] * 6 + ["broken"] * 2 + ["fixed"] * 340 + ["talks"] * 2 + ["named"] * 5 + ["wrong"] * (rows - 355)
    chance.shuffle(fates)
    lines = []
    for row in range(rows):
        expected = LABELS[row % 2]
        text = " ".join((chance.choice(OPENINGS[expected]), chance.choice(MIDDLES), chance.choice(ENDS)))
        if row % 50 == 0:
            text += " ; " + " and then again, because nothing here is said only once ," * 12
        fate = fates[row]
        before = answered(chance, expected, fate in ("kept", "broken"), fluent=fate in ("kept", "broken", "named"))
        after = answered(chance, expected, fate in ("kept", "fixed"), fluent=fate != "talks")
        lines.append(
            {
                "row": row,
                "where": f"reviews.csv:{row + 2}",
                "columns": {"text": text, "label": expected},
                "expected": expected,
                "before": before,
                "after": after,
            }
        )
    return lines


def data():
    def split(rows, total):
        half = rows // 2
        labels = {"negative": rows - half + 1, "positive": half - 1}
        tokens = {"median": 46, "p95": 78, "max": 101, "total": total}
        return {"rows": rows, "labels": labels, "tokens": tokens, "trained_share": 0.04, "truncated": 0}

    prompt = ["<|im_start|>", "user", "\n", "Is", " this", " review", " negative", " or", " positive", "?", "\n"]
    prompt += [" a", " warm", " and", " quietly", " funny", " comedy", "<|im_end|>", "\n"]
    prompt += ["<|im_start|>", "assistant", "\n"]
    tokens = [{"text": text, "trained": False} for text in prompt]
    tokens += [{"text": "positive", "trained": True}, {"text": "<|im_end|>", "trained": True}]
    return {
        "source": {"name": "movie review snippets", "path": None, "sha256": "3f" * 32, "licence": "MIT"},
        "read": 10605,
        "kept": 10072,
        "truncated": 0,
        "rejected": 2,
        "left_out": 531,
        "rejections": [
            {"where": "reviews.csv:17", "column": "text", "reason": "the text is empty"},
            {"where": "reviews.csv:902", "column": "label", "reason": "'postive' is none of negative, positive"},
        ],
        "splits": {"train": split(800, 37000), "validation": split(100, 4600), "test": split(400, 18500)},
        "length_histogram": {
            "edges": list(range(20, 111, 6)),
            "counts": [8, 31, 77, 120, 148, 139, 104, 71, 43, 28, 16, 9, 4, 1, 1],
        },
        "end_token_trained": True,
        "fully_masked": 0,
        "near_duplicates": 12,
        "overlap": 0,
        "example": {"tokens": tokens},
    }


def write_run(folder: Path) -> Path:
    """Write a whole sample run into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    write_json(folder / "summary.json", summary())
    write_json(folder / "data.json", data())
    write_lines(folder / "metrics.jsonl", metrics())
    write_lines(folder / "predictions.jsonl", predictions())
    return folder


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
