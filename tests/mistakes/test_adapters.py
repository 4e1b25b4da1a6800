"""Mistakes with adapters that are combined, shrunk, extracted, compared or shared."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from peftkit.adapter.attach import WEIGHTS

from ..merge.adapters import edit_settings, make_adapter
from .exercise import Argv, Case, Command, Place, check_case, cut, replace_text, table

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def adapter(place: Place, name: str, **settings: object) -> Path:
    return make_adapter(place.model, place.folder / name, len(name), **settings)


def edited(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)

    return edit


def changed(change: Callable[[Path], object], *words: object) -> Argv:
    """A combination that would succeed without the change to its second adapter."""

    def argv(place: Place) -> list[object]:
        first, second = adapter(place, "a"), adapter(place, "bb")
        change(second)
        return ["combine", first, second, "out", *words]

    return argv


def with_settings(**values: object) -> Argv:
    return changed(lambda folder: edit_settings(folder, **values))


def trained_with(**settings: object) -> Argv:
    return lambda place: ["combine", adapter(place, "a"), adapter(place, "bb", **settings), "out"]


def combined(*words: object) -> Argv:
    return lambda place: ["combine", adapter(place, "a"), adapter(place, "bb"), *words]


def both_whole(place: Place) -> list[object]:
    first, second = (adapter(place, name, modules_to_save=["model.norm"]) for name in ("a", "bb"))
    return ["combine", first, second, "out"]


def whole_with_weight(place: Place) -> list[object]:
    return ["combine", adapter(place, "a"), f"{adapter(place, 'bb', modules_to_save=['model.norm'])}:0.5", "out"]


def tokens_with_weight(place: Place) -> list[object]:
    second = adapter(place, "bb", trainable_token_indices={"embed_tokens": [3]})
    return ["combine", adapter(place, "a"), f"{second}:0.5", "out"]


def whole_and_changed(place: Place) -> list[object]:
    return ["combine", adapter(place, "a"), adapter(place, "bb", modules_to_save=["v_proj"], target_modules=["q_proj"])]


def out_exists(place: Place) -> list[object]:
    out = place.folder / "out"
    out.mkdir()
    return [*combined(out)(place)]


COMBINE = [
    Case("one word", lambda place: ["combine", "a"], 2, ("needs adapters and then the folder to write",)),
    Case(
        "unknown method", combined("out", "--method", "sum"), 2, ("--method sum is not one of linear, cat, svd, ties",)
    ),
    Case("density zero", combined("out", "--method", "ties", "--density", "0"), 2, ("--density 0", "up to 1")),
    Case("density above one", combined("out", "--method", "dare", "--density", "1.5"), 2, ("--density 1.5",)),
    Case("density not a number", combined("out", "--method", "dare", "--density", "nan"), 2, ("--density nan",)),
    Case("density of a sum", combined("out", "--density", "0.5"), 2, ("--density is for ties", "leave it out")),
    Case("rank of a sum", combined("out", "--rank", "2"), 2, ("--rank is for methods that cut", "--method svd")),
    Case("rank zero", combined("out", "--method", "svd", "--rank", "0"), 2, ("--rank 0 is no rank",)),
    Case("infinite weight", lambda place: ["combine", "a:1e999", "out"], 2, ("'a:1e999'", "not finite")),
    Case("output exists", out_exists, 6, ("out' exists and is not written over",)),
    Case("no adapter", lambda place: ["combine", "nosuch", "out"], 5, ("no adapter folder 'nosuch'",)),
    Case("long name", lambda place: ["combine", "x" * 300, "out"], 5, ("no adapter folder",)),
    Case("empty folder", lambda place: ["combine", place.folder, "out"], 5, ("is no adapter", "adapter_config.json")),
    Case("another method", with_settings(peft_type="IA3"), 5, ("bb' is of the kind IA3, not LoRA", "save_as_lora")),
    Case("DoRA", trained_with(use_dora=True), 5, ("bb' is DoRA", "merge it")),
    Case("lora_bias", with_settings(lora_bias=True), 5, ("bb' is LoRA with a bias of its own", "train it without")),
    Case("trained biases", with_settings(bias="lora_only"), 5, ("bias=lora_only", "bias=none")),
    Case("parameters", with_settings(target_parameters=["experts.up"]), 5, ("(target_parameters)", "merge it")),
    Case("repeated layers", with_settings(layer_replication=[[0, 2]]), 5, ("(layer_replication)",)),
    Case("a start that changes the base", with_settings(init_lora_weights="pissa"), 5, ("init_lora_weights=pissa",)),
    Case("both with whole modules", both_whole, 5, ("both hold whole modules", "at most one")),
    Case("whole modules with a weight", whole_with_weight, 5, ("model.norm", "no weight of 0.5", "weight 1")),
    Case("tokens with a weight", tokens_with_weight, 5, ("trainable_tokens_delta", "no weight of 0.5")),
    Case(
        "changed and replaced",
        lambda place: [*whole_and_changed(place), "out"],
        5,
        ("a' changes 'model.layers.0.self_attn.v_proj', which", "replaces as a whole"),
    ),
    Case("another task", trained_with(task_type="SEQ_2_SEQ_LM"), 5, ("is for SEQ_2_SEQ_LM", "one kind of model")),
    Case(
        "factors of another rank",
        changed(edited(lambda state: state.update({Q + "A.weight": state[Q + "A.weight"][:2]}))),
        5,
        ("q_proj' of the shapes (64, 4) and (2, 64)", "rank 4"),
    ),
    Case(
        "factors that are no matrices",
        changed(edited(lambda state: state.update({Q + "A.weight": state[Q + "A.weight"][..., None]}))),
        5,
        ("q_proj' of the shapes", "fetch it again"),
    ),
    Case(
        "another width",
        changed(edited(lambda state: state.update({Q + "A.weight": state[Q + "A.weight"][:, :32]}))),
        5,
        ("as a matrix of (64, 32)", "of (64, 64)", "two bases"),
    ),
    Case("one factor", changed(edited(lambda state: state.pop(Q + "B.weight"))), 5, ("lacks a factor of", "q_proj'")),
    Case(
        "not a number",
        changed(edited(lambda state: state[Q + "B.weight"].fill_(torch.nan))),
        5,
        ("values that are not finite in", "q_proj.lora_B.weight'"),
    ),
    Case(
        "integers",
        changed(edited(lambda state: state.update({Q + "A.weight": state[Q + "A.weight"].to(torch.int8)}))),
        5,
        ("holds torch.int8 values in",),
    ),
    Case(
        "a tensor of no known use",
        changed(edited(lambda state: state.update({"base_model.model.lm_head.weight": torch.ones(2)}))),
        5,
        ("holds 'base_model.model.lm_head.weight', which is neither a factor",),
    ),
    Case("no factors", changed(edited(lambda state: state.clear())), 5, ("holds no LoRA factors",)),
    Case("cut weights", changed(cut(WEIGHTS, 500)), 5, ("bb' is damaged",)),
    Case("broken settings", changed(replace_text("adapter_config.json", "{")), 5, ("bb' is damaged",)),
    Case("no rank", with_settings(r=None), 5, ("has r=None", "adapter_config.json is damaged")),
    Case("alpha as text", with_settings(lora_alpha="8"), 5, ("has lora_alpha='8'", "is damaged")),
]


def shrunk(*words: object, **settings: object) -> Argv:
    return lambda place: ["shrink", adapter(place, "a", **settings), "out", *words]


SHRINK = [
    Case("nothing to do", shrunk(), 2, ("nothing would be smaller", "--rank, --dtype")),
    Case("unknown dtype", shrunk("--dtype", "int4"), 2, ("--dtype int4 is not one of float32, bf16, fp16, fp8, int8",)),
    Case("rank of a word", shrunk("--rank", "few"), 2, ("--rank few is no rank", "or auto")),
    Case("rank of nothing", shrunk("--rank", "0"), 2, ("--rank 0 is no rank",)),
    Case("budget without auto", shrunk("--rank", "2", "--kl", "0.1"), 2, ("--kl is the budget of --rank auto",)),
    Case("no budget", shrunk("--rank", "auto", "--kl", "0"), 2, ("--kl 0 is no budget", "0.0001")),
    Case("budget not a number", shrunk("--rank", "auto", "--kl", "nan"), 2, ("--kl nan is no budget",)),
    Case("auto without a passport", shrunk("--rank", "auto"), 5, ("has no passport", "give --rank a number")),
    Case("shrinking DoRA", shrunk("--rank", "2", use_dora=True), 5, ("a' is DoRA",)),
    Case("shrinking nothing", lambda place: ["shrink", "nosuch", "out", "--rank", "2"], 5, ("no adapter folder",)),
    Case(
        "shrinking over a folder",
        lambda place: ["shrink", adapter(place, "a"), place.folder, "--rank", "2"],
        6,
        ("exists and is not written over",),
    ),
]
EXTRACT = [
    Case("no rank at all", lambda place: ["extract", place.model, place.model, "out"], 2, ("Missing option '--rank'",)),
    Case(
        "extracting rank zero",
        lambda place: ["extract", place.model, place.model, "out", "--rank", "0"],
        2,
        ("--rank 0",),
    ),
    Case(
        "extracting nothing",
        lambda place: ["extract", place.model, place.model, "out", "--rank", "4"],
        4,
        ("have the same weights", "nothing to extract"),
    ),
    Case(
        "extracting unknown layers",
        lambda place: ["extract", place.model, place.model, "out", "--rank", "4", "--modules", "q_proj,nope"],
        2,
        ("--modules nope is no linear layer", "q_proj"),
    ),
    Case(
        "extracting over a folder",
        lambda place: ["extract", place.model, place.model, place.folder, "--rank", "4"],
        6,
        ("exists and is not written over",),
    ),
    Case(
        "extracting from no model",
        lambda place: ["extract", place.model, "./nosuch", "out", "--rank", "4"],
        4,
        ("'./nosuch' is no model",),
    ),
    Case(
        "extracting from cut weights",
        lambda place: [
            *("extract", place.model, place.changed_model(cut("model.safetensors", 2000)), "out", "--rank", "4"),
        ],
        4,
        ("model.safetensors' ends before its header does", "fetch it again"),
    ),
]
DIFF = [
    Case("comparing nothing", lambda place: ["diff", "nosuch", "nosuch"], 5, ("no adapter folder 'nosuch'",)),
    Case(
        "comparing with DoRA",
        lambda place: ["diff", adapter(place, "a"), adapter(place, "bb", use_dora=True)],
        5,
        ("bb' is DoRA",),
    ),
]


def packed(*words: object, **settings: object) -> Argv:
    return lambda place: ["pack", adapter(place, "a", **settings), *words]


def unpacked(name: str, content: bytes) -> Argv:
    return lambda place: ["unpack", place.file(name, content), "out"]


SHARE = [
    Case("packing to another ending", packed("out.zip"), 6, ("'out.zip' must end in .peft.zip",)),
    Case(
        "packing in few bits",
        packed("o.peft.zip", "--dtype", "int8"),
        2,
        ("--dtype int8 is not one of bf16, float32", "peftkit shrink"),
    ),
    Case("packing nothing", lambda place: ["pack", "nosuch", "o.peft.zip"], 5, ("no adapter folder 'nosuch'",)),
    Case("packing into nowhere", packed("/proc/x/o.peft.zip", "--dtype", "float32"), 6, ("cannot be written",)),
    Case(
        "packing loud answers",
        packed("o.peft.zip", lora_alpha=64, target_modules="all-linear"),
        5,
        ("in bf16 its answers", "--dtype float32"),
    ),
    Case("unpacking nothing", lambda place: ["unpack", "nosuch", "out"], 5, ("'nosuch' cannot be read",)),
    Case("unpacking a folder", lambda place: ["unpack", place.model, "out"], 5, ("is no plain file",)),
    Case("unpacking a text", unpacked("a.peft.zip", b"x" * 99), 5, ("'a.peft.zip' is no zip file",)),
    Case("unpacking over a folder", lambda place: ["unpack", "x", place.folder], 6, ("is not written over",)),
    Case("signing nothing", lambda place: ["sign", "nosuch", "--key", "k"], 5, ("no adapter folder 'nosuch'",)),
    Case("signing without a key", lambda place: ["sign", adapter(place, "a")], 2, ("--new-key FILE",)),
    Case(
        "signing with a missing key",
        lambda place: ["sign", adapter(place, "a"), "--key", "k.pem"],
        2,
        ("there is no key 'k.pem'",),
    ),
    Case("a key over a file", lambda place: ["sign", "--new-key", place.file("k.pem")], 6, ("is not written over",)),
    Case("verifying nothing", lambda place: ["verify", "nosuch", "--key", "k.pem"], 5, ("no adapter folder 'nosuch'",)),
]


@table(*COMBINE, *SHRINK, *EXTRACT, *DIFF, *SHARE)
def test_mistake_with_adapters(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)
