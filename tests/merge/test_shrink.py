"""A shrunk adapter is the best of its rank, loads where it says it does, and answers as the one it was made from."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from peftkit.adapter.attach import WEIGHTS, read_files
from peftkit.adapter.int8_file import INT8_TYPE, to_int8
from peftkit.adapter.passport import PASSPORT, read_passport
from peftkit.adapter.trained import open_adapter
from peftkit.data.rows import Row
from peftkit.errors import AdapterError
from peftkit.judge import predict
from peftkit.merge.shrink import shrink

from .adapters import (
    PATTERNS,
    base,
    changes,
    edit_settings,
    logits,
    logits_of_dense,
    logits_with,
    make_adapter,
    relative,
    settings_of,
)

pytestmark = pytest.mark.xdist_group("merge")

# What rounding each number to so many bits makes of a change, at most: 2^-9, 2^-12, 2^-4 and 1/254 of each factor.
ERROR = {"bf16": 4e-3, "fp16": 6e-4, "fp8": 0.05, "int8": 1.2e-2}
SIZE = {"bf16": 0.51, "fp16": 0.51, "fp8": 0.27, "int8": 0.32}


@pytest.fixture
def adapter(tiny_model, tmp_path):
    return make_adapter(tiny_model, tmp_path / "a", 1, **PATTERNS)


@pytest.fixture
def large(tiny_model, tmp_path):
    return make_adapter(tiny_model, tmp_path / "large", 1, r=32, target_modules="all-linear", use_rslora=True)


def divergence(before, after):
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_cut_is_the_best_approximation(adapter, tmp_path, rank):
    report = shrink(adapter, tmp_path / "out", rank=rank)
    found = changes(tmp_path / "out")
    kept = total = 0.0
    for name, change in changes(adapter).items():
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        assert relative(found[name], u[:, :rank] * s[:rank] @ v[:rank]) < 1e-6
        assert report["modules"][name]["rank"] == min(rank, int((s > 1e-6).sum()))
        kept, total = kept + float((s[:rank] ** 2).sum()), total + float((s**2).sum())
    assert report["energy_kept"] == pytest.approx(kept / total)
    assert report["relative_error"] == pytest.approx((1 - kept / total) ** 0.5, rel=1e-4)
    assert report["ranks_before"] == {"least": 2, "most": 6, "usual": 4, "total": 4 + 4 + 6 + 2 + 4 + 6}
    assert report["bytes"] < report["bytes_before"]


@pytest.mark.parametrize("dtype", ERROR)
def test_fewer_bits_lose_little_and_take_less_room(large, tiny_model, tmp_path, dtype):
    report = shrink(large, tmp_path / "out", dtype=dtype)
    assert report["bytes"] / report["bytes_before"] <= SIZE[dtype]
    assert 0 < report["relative_error"] < ERROR[dtype]
    assert report["energy_kept"] == pytest.approx(1)
    before, after = logits_with(tiny_model, large), logits_with(tiny_model, tmp_path / "out")
    effect = divergence(before, logits(base(tiny_model)))
    assert divergence(before, after) < effect * (2 * ERROR[dtype]) ** 2


@pytest.mark.parametrize("dtype", ["float32", "bf16", "fp16", "fp8"])
def test_peft_loads_it_and_answers_alike(adapter, tiny_model, tmp_path, dtype):
    shrink(adapter, tmp_path / "out", dtype=dtype, rank=3)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn, "float32": torch.float32}
    assert {one.dtype for one in load_file(tmp_path / "out" / WEIGHTS).values()} == {kinds[dtype]}
    state = {name: value.float() for name, value in load_file(tmp_path / "out" / WEIGHTS).items()}
    model = PeftModel.from_pretrained(base(tiny_model), tmp_path / "out")
    for name, value in model.state_dict().items():
        if ".lora_" in name:
            assert torch.equal(value, state[name.replace(".default", "")])
    assert torch.equal(logits(model), logits_with(tiny_model, tmp_path / "out"))


@pytest.mark.parametrize("dtype", ["fp16", "fp8"])
def test_values_too_small_for_a_dtype_are_kept(adapter, tiny_model, tmp_path, dtype):
    state = load_file(adapter / WEIGHTS)
    for name, value in state.items():
        state[name] = value * (1e-5 if "lora_B" in name else 1e-2)
    save_file(state, adapter / WEIGHTS)
    edit_settings(adapter, lora_alpha=8e7, alpha_pattern={})
    assert relative(logits_with(tiny_model, adapter), logits(base(tiny_model))) > 0.05
    report = shrink(adapter, tmp_path / "out", dtype=dtype)
    assert report["relative_error"] < ERROR[dtype]


def test_directions_of_unlike_factors_are_kept_in_int8(adapter, tmp_path):
    state = load_file(adapter / WEIGHTS)
    for name, value in state.items():
        unlike = 100.0 ** torch.arange(min(value.shape))
        state[name] = value / unlike if "lora_B" in name else value * unlike[:, None]
    save_file(state, adapter / WEIGHTS)
    assert shrink(adapter, tmp_path / "out", dtype="int8")["relative_error"] < ERROR["int8"]


def test_int8_is_read_by_peftkit_and_refused_by_peft(adapter, tiny_model, tmp_path):
    shrink(adapter, tmp_path / "out", dtype="int8")
    assert settings_of(tmp_path / "out")["peft_type"] == INT8_TYPE
    raw = load_file(tmp_path / "out" / WEIGHTS)
    assert {name.rpartition(".")[2] for name in raw} == {"int8", "int8_scale"}
    settings, state = read_files(tmp_path / "out")
    assert settings["peft_type"] == "LORA"
    for name, value in state.items():
        assert torch.equal(value, raw[f"{name}.int8"].float() * raw[f"{name}.int8_scale"][:, None])
    added = {}
    for name in changes(adapter):
        a, b = (state[f"base_model.model.{name}.lora_{one}.weight"].double() for one in "AB")
        rank = a.shape[0]
        alpha = settings["alpha_pattern"].get(name, settings["lora_alpha"])
        added[name] = alpha / rank * (b @ a)
    assert (logits_with(tiny_model, tmp_path / "out") - logits_of_dense(tiny_model, added)).abs().max() < 1e-5
    with pytest.raises((KeyError, ValueError), match=INT8_TYPE):
        PeftModel.from_pretrained(base(tiny_model), tmp_path / "out")
    report = shrink(tmp_path / "out", tmp_path / "back", dtype="bf16", rank=2)
    assert report["ranks"]["most"] == 2


def test_integers_are_rounded_row_by_row():
    values, scale = to_int8(torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.0, 0.0], [1.1e-6, -2e-6, 0.0]]))
    assert values.tolist() == [[127, -64, 0], [0, 0, 0], [70, -127, 0]]
    assert scale.tolist() == pytest.approx([1, 1, 2e-6 / 127])


@pytest.mark.parametrize("lost", [".int8_scale", ".int8"])
def test_a_damaged_int8_file_is_refused(adapter, tiny_model, tmp_path, lost):
    shrink(adapter, tmp_path / "out", dtype="int8")
    state = load_file(tmp_path / "out" / WEIGHTS)
    state.pop(next(name for name in state if name.endswith(lost)))
    save_file(state, tmp_path / "out" / WEIGHTS)
    with pytest.raises(AdapterError, match=r"has no scale|lacks"):
        logits_with(tiny_model, tmp_path / "out")


def test_embeddings_and_whole_modules_are_stored_too(tiny_model, tmp_path):
    made = make_adapter(tiny_model, tmp_path / "a", 1, target_modules=["embed_tokens"], modules_to_save=["model.norm"])
    shrink(made, tmp_path / "out", dtype="bf16", rank=6)
    state = load_file(tmp_path / "out" / WEIGHTS)
    assert {
        name.rpartition("embed_tokens.")[2]: tuple(value.shape) for name, value in state.items() if "lora" in name
    } == {
        "lora_embedding_A": (4, 259),
        "lora_embedding_B": (64, 4),
    }
    assert state["base_model.model.model.norm.weight"].dtype == torch.bfloat16
    assert relative(logits_with(tiny_model, tmp_path / "out"), logits_with(tiny_model, made)) < 0.02
    cut = shrink(made, tmp_path / "cut", rank=2)
    u, sizes, v = torch.linalg.svd(changes(made)["model.embed_tokens"], full_matrices=False)
    assert relative(changes(tmp_path / "cut")["model.embed_tokens"], u[:, :2] * sizes[:2] @ v[:2]) < 1e-6
    assert cut["modules"] == {"model.embed_tokens": {"rank": 2}}


@pytest.mark.parametrize(("dtype", "kl"), [("float32", 1e-3), ("float32", 1e-6), ("bf16", 1e-4)])
def test_the_smallest_ranks_are_within_the_budget(runs, tmp_path, dtype, kl):
    report = shrink(runs[0], tmp_path / "out", dtype=dtype, rank="auto", kl=kl)
    assert 0 <= report["kl"] <= kl
    assert report["texts"] == "held-out rows"
    before, after = report["ranks_before"], report["ranks"]
    assert 14 <= after["total"] < before["total"]
    made = read_passport(tmp_path / "out").made_from
    assert (made.change, made.kl, made.settings) == ("shrink", report["kl"], {"dtype": dtype, "rank": "auto"})
    measured = held_out_divergence(runs[0], tmp_path / "out")
    assert measured == pytest.approx(report["kl"], rel=0.02, abs=1e-9)


def held_out_divergence(run, made):
    """The divergence, from whole batches of the run's own held-out rows, through the files alone."""
    full, cut = open_adapter(run), open_adapter(made)
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    total = count = 0
    for row in rows:
        prompt = full.encoder.prompt_ids(row["columns"])
        answer = full.encoder.encode_rows([Row(row["where"], row["columns"])])[0][0].completion_ids
        ids = torch.tensor([[*prompt, *answer]])
        with torch.inference_mode():
            p, q = (
                one.model(input_ids=ids).logits[0, len(prompt) - 1 : -1][:16].double().log_softmax(-1)
                for one in (full, cut)
            )
        total, count = total + float((p.exp() * (p - q)).sum()), count + len(p)
    return total / count


def test_a_smaller_budget_keeps_more(runs, tmp_path):
    totals = [shrink(runs[0], tmp_path / f"{kl}", rank="auto", kl=kl)["ranks"]["total"] for kl in (1e-1, 1e-4, 1e-7)]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


def test_rows_that_are_gone_are_replaced_by_documentation(runs, tmp_path):
    shutil.copytree(runs[0] / "adapter", tmp_path / "alone")
    passport = json.loads((tmp_path / "alone" / PASSPORT).read_text())
    passport["config"]["data"]["path"] = ["gone.jsonl"]
    (tmp_path / "alone" / PASSPORT).write_text(json.dumps(passport))
    report = shrink(tmp_path / "alone", tmp_path / "out", rank="auto", kl=1e-3)
    assert report["texts"] == "documentation"
    assert report["kl"] <= 1e-3


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_shrunk_adapter_answers_as_before(runs, tmp_path, dtype):
    shrink(runs[0], tmp_path / "out", dtype=dtype)
    before, after = (dict(predict(folder, ["a lovely film"])[0]["scores"]) for folder in (runs[0], tmp_path / "out"))
    assert after == pytest.approx(before, abs=0.02)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"| dtype | {dtype} |" in card


def test_a_dtype_that_takes_more_than_the_budget_is_refused(runs, tmp_path):
    with pytest.raises(AdapterError, match=r"stored as fp8 at its full ranks.*more than --kl 1e-12"):
        shrink(runs[0], tmp_path / "out", dtype="fp8", rank="auto", kl=1e-12)
    assert not (tmp_path / "out").exists()
