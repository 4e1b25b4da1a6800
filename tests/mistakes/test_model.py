"""Mistakes in the base model: what is not there, what is damaged, and what cannot do the task."""

from collections.abc import Callable
from pathlib import Path

from ..models import tiny
from .exercise import Argv, Case, Command, Place, check_case, checked, cut, edit_json, replace_text, table, trained


def changed(change: Callable[[Path], object]) -> Argv:
    return lambda place: place.check(f"model.path={place.changed_model(change)}")


def changed_in_run(change: Callable[[Path], object]) -> Argv:
    return lambda place: place.train(f"model.path={place.changed_model(change)}")


def of(kind: str, *settings: str, recipe: str) -> Argv:
    """A check with a small model of that kind, on the recipe's embedded rows."""
    return lambda place: place.check(f"model.path={tiny(kind)}", "data.path=", *settings, recipe=recipe)


MODELS = [
    Case(
        "no config.json",
        changed(lambda folder: (folder / "config.json").unlink()),
        4,
        ("holds no model", "no config.json", "tokenizer.json"),
    ),
    Case(
        "only .bin",
        changed(lambda folder: (folder / "model.safetensors").rename(folder / "model.bin")),
        4,
        ("holds no .safetensors weights",),
    ),
    Case(
        "broken config.json",
        changed(replace_text("config.json", "{")),
        4,
        ("config.json is damaged", "line 1"),
    ),
    Case(
        "config.json of a list",
        changed(replace_text("config.json", "[]")),
        4,
        ("model' cannot be loaded",),
    ),
    Case(
        "no tokenizer",
        changed(lambda folder: (folder / "tokenizer.json").unlink()),
        4,
        ("the tokenizer in", "cannot be loaded"),
    ),
    Case(
        "broken template",
        changed(replace_text("chat_template.jinja", "{% if %}")),
        2,
        ("the chat template of", "Expected an expression"),
    ),
    Case("no path", lambda place: place.check("model.path=./nosuch"), 4, ("'./nosuch' is no model", "a hub id")),
    Case("file as model", lambda place: place.check(f"model.path={place.reviews}"), 4, ("is no model", "config.json")),
    Case("no GGUF", lambda place: place.check("model.path=no.gguf"), 4, ("no GGUF file 'no.gguf'",)),
    Case(
        "text as GGUF",
        lambda place: place.check(f"model.path={place.file('a.gguf', 'hello')}"),
        4,
        ("a.gguf is not a GGUF file",),
    ),
    Case(
        "hub out of reach",
        lambda place: place.check("model.path=nobody/nothing"),
        4,
        ("'nobody/nothing'", "check the name and the network", "HF_HUB_OFFLINE"),
    ),
    Case("long path", lambda place: place.check(f"model.path={'x' * 300}"), 4, ("is no model",)),
    Case("empty path", checked("model.path="), 4, ("holds no model", "no config.json")),
    Case("revision of a folder", checked("model.revision=abc"), 4, ("model.revision=abc", "is a folder")),
    Case(
        "unknown layers",
        trained("adapter.target_modules=attention"),
        2,
        ("adapter.target_modules=attention", "not found in the base model"),
    ),
    Case(
        "rank that PEFT refuses",
        trained("adapter.init_lora_weights=orthogonal", "adapter.r=3", "model.quantization=none"),
        2,
        ("PEFT refuses adapter.method=lora", "rank to be even, got 3"),
    ),
    Case(
        "unknown kernel",
        trained("model.attn_implementation=sdpaa"),
        4,
        ("cannot be loaded", 'attn_implementation="sdpaa"'),
    ),
    Case("unknown argument", trained("model.extra.foo=1"), 4, ("cannot be loaded", "argument 'foo'")),
    Case("cut weights", changed_in_run(cut("model.safetensors", 2000)), 4, ("the model in", "cannot be loaded")),
    Case(
        "weights of other shapes",
        changed_in_run(edit_json("config.json", hidden_size=32)),
        4,
        ("the model in", "cannot be loaded"),
    ),
]

ANSWERS = [
    Case(
        "encoder for texts",
        of("bert", recipe="summarization"),
        2,
        ("is an encoder (bert), which writes no text", "task.kind=classification and regression"),
    ),
    Case(
        "encoder for labels as text",
        of("bert", "task.answer=text", recipe="classification"),
        2,
        ("is an encoder (bert), which writes no text; leave task.answer out",),
    ),
    Case(
        "scores as text",
        of("llama", "task.answer=text", recipe="regression"),
        2,
        ("task.kind=regression is learned by a head; leave task.answer out",),
    ),
    Case(
        "texts by a head",
        of("llama", "task.answer=head", recipe="summarization"),
        2,
        ("task.answer=head gives labels or scores, and task.kind=generation needs text",),
    ),
    Case(
        "encoder-decoder with a head",
        of("t5", "task.answer=head", recipe="classification"),
        2,
        ("is an encoder-decoder model (t5)", "take a decoder or an encoder"),
    ),
    Case("encoder-decoder for scores", of("t5", recipe="regression"), 2, ("is an encoder-decoder model (t5)",)),
    Case(
        "encoder-decoder for several labels",
        of("t5", "task.multi_label=true", recipe="classification"),
        2,
        ("is an encoder-decoder model (t5)", "single labels"),
    ),
    Case(
        "answer shorter than a label",
        lambda place: place.check(f"model.path={tiny('t5')}", "evaluate.max_new_tokens=2"),
        2,
        ("evaluate.max_new_tokens=2 is less than the", "of the label 'negative'; raise it"),
    ),
    Case(
        "class weights of an unknown label",
        trained("train.class_weights.spam=3"),
        2,
        ("train.class_weights.spam: there is no such label; there are: negative, positive",),
    ),
    Case(
        "class weights of nothing",
        trained("train.class_weights.positive=0", "train.class_weights.negative=0"),
        2,
        ("all training rows have weight 0", "give some a weight above 0"),
    ),
]


@table(*MODELS, *ANSWERS)
def test_mistake_in_the_model(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)
