"""The head of a card, which the hub reads: YAML that says base, licence, task, data and results.

The fields are those of https://github.com/huggingface/hub-docs/blob/main/modelcard.md; huggingface_hub writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.adapter.passport import Passport
from peftkit.model.assets import ASSETS
from peftkit.model.licence import Licence, embedded_licence, named_licence

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")
# The hub's name of each metric, and by what a share is multiplied to be written as that metric is.
_METRICS = {
    "accuracy": ("accuracy", 1),
    "macro_f1": ("f1", 1),
    "micro_f1": ("f1", 1),
    "likelihood_accuracy": ("accuracy", 1),
    "exact_match": ("exact_match", 1),
    "rouge1": ("rouge", 1),
    "rouge2": ("rouge", 1),
    "rougeL": ("rouge", 1),
    "bleu": ("sacrebleu", 100),
    "chrf": ("chrf", 100),
    "mse": ("mse", 1),
    "mae": ("mae", 1),
    "pearson": ("pearsonr", 1),
    "spearman": ("spearmanr", 1),
    "perplexity": ("perplexity", 1),
}
_TASKS = {"text-generation": "Text Generation", "text-classification": "Text Classification"}


def hub_base(path: str) -> str | None:
    """Return the hub id of a base model: the one that was given, or what an embedded model is a copy of."""
    if path in ASSETS:
        return ASSETS[path].origin
    return path if _HUB_ID.fullmatch(path) and not Path(path).exists() else None


def head_of(passport: Passport) -> str:
    """Return the head of an adapter's card as YAML, without the lines around it."""
    from huggingface_hub import ModelCardData

    base = hub_base(passport.base.path)
    datasets = [one["repo"] for one in _sources(passport) if _HUB_ID.fullmatch(str(one.get("repo")))]
    results = _results(passport)
    used = dict.fromkeys(_METRICS[key][0] for key in passport.metrics if key in _METRICS)
    method = passport.config.adapter.method
    more: dict[str, Any] = {**licence_fields(licence_of(passport))}
    if base:
        more["base_model_relation"] = "adapter"
    data = ModelCardData(
        base_model=base,
        library_name="peft",
        pipeline_tag=pipeline_tag(passport),
        language=_languages(passport) or None,
        datasets=list(dict.fromkeys(datasets)) or None,
        tags=[*([f"base_model:adapter:{base}"] if base else []), method, "transformers", "peftkit"],
        metrics=list(used) or None,
        model_name=_one_line(passport.recipe) if results else None,
        eval_results=results or None,
        **more,
    )
    return str(data.to_yaml(original_order=["base_model", "base_model_relation", "library_name", "license"]))


def licence_of(passport: Passport) -> Licence | None:
    """Return the licence of an adapter's base model: what its passport says, or the table of embedded models."""
    path = passport.base.path
    return passport.base.licence or (embedded_licence(path) if path in ASSETS else None)


def licence_fields(licence: Licence | None) -> dict[str, str]:
    """Return what a card's head says of a licence; `unknown` where it was not found."""
    # Again, as a passport from elsewhere can hold anything.
    licence = licence and named_licence(licence.id, licence.name, licence.link, found=licence.found)
    if licence is None:
        return {"license": "unknown"}
    extra = {"license_name": licence.name, "license_link": licence.link}
    return {"license": licence.id, **{key: value for key, value in extra.items() if value and licence.id == "other"}}


def pipeline_tag(passport: Passport) -> str:
    """Return the hub's word for the task."""
    writes = passport.config.task.kind in ("generation", "chat", "completion")
    return "text-generation" if writes else "text-classification"


def data_sources(passport: Passport) -> list[Mapping[str, Any]]:
    """Return each source of the data with its `name`, and what was noted of it."""
    return _sources(passport) or [passport.data.get("source", {})]


def _sources(passport: Passport) -> list[Mapping[str, Any]]:
    found = passport.data.get("source", {}).get("sources", ())
    return [one for one in found if isinstance(one, dict)]


def _languages(passport: Passport) -> list[str]:
    given = [word for one in _sources(passport) for word in one.get("languages", ())]
    return list(dict.fromkeys(word for word in given if isinstance(word, str) and _LANGUAGE.fullmatch(word)))


def _results(passport: Passport) -> list[Any]:
    from huggingface_hub import EvalResult

    source = passport.data.get("source", {})
    hub = next((one for one in _sources(passport) if _HUB_ID.fullmatch(str(one.get("repo")))), {})
    name = _one_line(str(source.get("name", "held-out rows")))
    task = pipeline_tag(passport)
    return [
        EvalResult(
            task_type=task,
            task_name=_TASKS[task],
            dataset_type=hub.get("repo") or _slug(str(source.get("asset") or name)),
            dataset_name=name,
            dataset_config=hub.get("config"),
            dataset_revision=hub.get("revision"),
            dataset_split=f"{passport.after[key]['n']} held-out rows",
            metric_type=_METRICS.get(key, (_slug(key), 1))[0],
            metric_name=_one_line(described["name"]),
            metric_value=_figure(passport.after[key]["value"] * _METRICS.get(key, ("", 1))[1]),
        )
        for key, described in passport.metrics.items()
        if passport.after.get(key, {}).get("value") is not None
    ]


def _figure(value: float) -> float:
    return float(f"{value:.4g}")


def _one_line(text: str) -> str:
    """Keep a text on one line, so that no line of the head can end it early."""
    return " ".join(text.split())


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:96] or "data"
