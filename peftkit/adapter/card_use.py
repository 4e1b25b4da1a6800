"""How an adapter is used in peftkit, in PEFT and in vLLM: a few lines of code each, for its card.

What comes from outside stands in them as a literal of the language, so that it can neither end a line nor a fence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from peftkit.adapter.card_head import hub_base
from peftkit.adapter.passport import Passport
from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.export.readers import VLLM_RANKS, Facts, judge_facts
from peftkit.model.assets import ASSETS

FOLDER = "path/of/this/folder"
"""What stands for the adapter's place where it is not on the hub."""
_BASE = "path/of/the/base/model"


@dataclass(frozen=True)
class Use:
    """One program.

    Attributes:
        title: What it is called.
        language: Of the lines: `sh` or `python`.
        lines: The code; empty where it cannot be used there.
        note: What stands under it.
        command: What helps where it cannot be used as it is; empty where nothing does.
    """

    title: str
    language: str
    lines: tuple[str, ...]
    note: str = ""
    command: str = ""


def uses(passport: Passport, facts: Facts, place: str = FOLDER) -> list[Use]:
    """Return how to use an adapter.

    Args:
        passport: Its passport.
        facts: What its files say.
        place: Its folder, or its id on the hub.
    """
    return [_peftkit(place), _peft(passport, facts, place), _vllm(passport, facts, place)]


def asked(passport: Passport) -> list[dict[str, str]]:
    """Return the messages that stand before an answer, with `your NAME` for each column."""
    task = passport.config.task
    system = task.system and task.system.replace("{labels}", ", ".join(task.labels or ()))
    question = "your question" if task.kind == "chat" else re.sub(r"\{(\w+)\}", r"your \1", task.prompt)
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": question}]


def kind_of(passport: Passport) -> str:
    """Return how the model answers: `causal`, `head` or `seq2seq`, by the end of its class's name."""
    name = passport.base.architecture
    return "head" if "SequenceClassification" in name else "seq2seq" if "Conditional" in name else "causal"


def _peftkit(place: str) -> Use:
    if place == FOLDER:
        return Use("peftkit", "sh", (f'peftkit predict {FOLDER} "your text"',))
    lines = (f"peftkit pull {shlex.quote('hf:' + place)} adapter", 'peftkit predict adapter "your text"')
    return Use("peftkit", "sh", lines)


def _peft(passport: Passport, facts: Facts, place: str) -> Use:
    if facts.packed:
        command = "peftkit shrink ADAPTER OUT --dtype bf16"
        return Use("PEFT", "python", (), "PEFT does not read its 8-bit weights.", command)
    imports, base = _base(passport)
    where, kind = _literal(place), kind_of(passport)
    held = passport.base.quantization
    note = (
        f"It was trained and judged on {held} weights. This takes unquantized ones, on which answers can clearly "
        "differ, the more the smaller the model; `peftkit predict` takes those of training, and `peftkit merge` finds "
        "out which are better."
        if held != "none"
        else ""
    )
    if kind == "causal":
        return Use("PEFT", "python", _pipeline(passport, imports, base, where), note)
    auto = "AutoModelForSeq2SeqLM" if kind == "seq2seq" else "AutoModelForSequenceClassification"
    count = max(1, len(passport.config.task.labels or ()))
    more = f", num_labels={count}" if kind == "head" else ""
    encoded = f'tokenizer({_literal(_text(passport))}, return_tensors="pt")'
    written = f"model.generate(**{encoded}, max_new_tokens={_room(passport)})[0]"
    answer = (
        f"model(**{encoded}).logits" if kind == "head" else f"tokenizer.decode({written}, skip_special_tokens=True)"
    )
    lines = (
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoTokenizer",
        *imports,
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({base})",
        f"model = PeftModel.from_pretrained({auto}.from_pretrained({base}{more}), {where})",
        f"print({answer})",
    )
    return Use("PEFT", "python", lines, " ".join([note, _scores(passport)]).strip())


def _pipeline(passport: Passport, imports: tuple[str, ...], base: str, where: str) -> tuple[str, ...]:
    given, taken = _prompt(passport)
    return (
        "from peft import PeftModel",
        "from transformers import pipeline",
        *imports,
        "",
        f"prompt = {given}",
        f'answer = pipeline("text-generation", {base})',
        f"answer.model = PeftModel.from_pretrained(answer.model, {where})",
        f"print(answer(prompt, max_new_tokens={_room(passport)}, do_sample=False)[0]['generated_text']{taken})",
    )


def _vllm(passport: Passport, facts: Facts, place: str) -> Use:
    verdict = judge_facts(facts, "vllm")
    if kind_of(passport) != "causal":
        return Use("vLLM", "python", (), f"{verdict.version} serves models that write on, and this is none.")
    if not verdict.takes:
        note = f"{verdict.version} does not take it as it is: {verdict.problems[0]}."
        return Use("vLLM", "python", (), note, next(iter(verdict.commands), ""))
    imports, base = _base(passport)
    most = next(one for one in VLLM_RANKS if one >= max(facts.ranks.values(), default=1))
    given, taken = _prompt(passport)
    call = "chat" if taken else "generate"
    lines = (
        "from vllm import LLM, SamplingParams",
        "from vllm.lora.request import LoRARequest",
        *imports,
        "",
        f"prompt = {given}",
        f"model = LLM({base}, enable_lora=True, max_lora_rank={most})",
        f"sampling, adapter = SamplingParams(temperature=0, max_tokens={_room(passport)}), "
        f'LoRARequest("adapter", 1, {_literal(place)})',
        f"print(model.{call}(prompt, sampling, lora_request=adapter)[0].outputs[0].text)",
    )
    return Use("vLLM", "python", lines)


def _base(passport: Passport) -> tuple[tuple[str, ...], str]:
    """Return lines to import, and the expression of the base model."""
    path = passport.base.path
    if path in ASSETS:
        return ("from peftkit.model.convert import EMBEDDED",), f"str(EMBEDDED[{_literal(path)}](None))"
    return (), _literal(path) if hub_base(path) else _literal(_BASE)


def _prompt(passport: Passport) -> tuple[str, str]:
    """Return the prompt as an expression, and what takes the answer out of a conversation."""
    messages = asked(passport)
    if passport.config.task.kind == "completion":
        return _literal("your text"), ""
    if passport.tokenizer.template == PLAIN_TEMPLATE:
        return _literal("\n\n".join([*(one["content"] for one in messages), "Answer:"])), ""
    return f"[{', '.join(_message(one) for one in messages)}]", "[-1]['content']"


def _message(message: Mapping[str, str]) -> str:
    return f'{{"role": "{message["role"]}", "content": {_literal(message["content"])}}}'


def _text(passport: Passport) -> str:
    """Return what a model without a chat template reads: a head the text alone, an encoder-decoder all in one."""
    messages = asked(passport)[-1:] if kind_of(passport) == "head" else asked(passport)
    return " ".join(one["content"].strip() for one in messages)


def _room(passport: Passport) -> int:
    return passport.config.evaluate.max_new_tokens


def _scores(passport: Passport) -> str:
    task = passport.config.task
    if kind_of(passport) != "head":
        return ""
    if task.kind == "regression":
        return f"The score is the logit times {task.score_std:g}, plus {task.score_mean:g}." if task.score_std else ""
    return "The logits are in the order of the labels above."


def _literal(text: str) -> str:
    """Write a text as Python does, on one line; double quotes where that needs no more escapes."""
    written = repr(text)
    return f'"{written[1:-1]}"' if written[0] == "'" and '"' not in written and "\\'" not in written else written
