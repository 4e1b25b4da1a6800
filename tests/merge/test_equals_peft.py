"""The merged files are those of PEFT's `merge_and_unload`, in every element, wherever PEFT is right."""

import pytest
import torch

from peftkit.merge import rows

from .bases import adapted, adapter, base, load, logits, merged, tensors

ATTENTION = ["q_proj", "v_proj"]
LAYERS = {"gpt2": ["c_attn", "c_proj"], "qwen3moe": ATTENTION, "mixtral": ATTENTION}
FIRST = {"gpt2": "h.0.attn.c_attn"}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def cases(name: str) -> dict[str, dict]:
    layers = LAYERS.get(name, [*ATTENTION, "down_proj"])
    first = FIRST.get(name, "layers.0.self_attn.q_proj")
    found = {
        "lora": {},
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "patterns": {"rank_pattern": {first: 7}, "alpha_pattern": {first: 3}, "use_rslora": True},
        "biases": {"bias": "lora_only"},
        "tokens": {"trainable_token_indices": [70, 3, 9]},
    }
    if name == "gpt2":
        found["lora_bias"] = {"lora_bias": True}
    elif name != "tied":
        found |= {
            "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
            "embeddings": {"target_modules": [*layers, "embed_tokens"]},
            "embeddings dora": {"target_modules": [*layers, "embed_tokens"], "use_dora": True},
            "head": {"target_modules": [*layers, "lm_head"]},
        }
    if name in ("qwen3moe", "mixtral"):
        found["experts"] = {"target_parameters": EXPERTS}
    return {key: {"target_modules": layers, **settings} for key, settings in found.items()}


ALL = [
    (name, dtype, shards, case)
    for name in ("llama", "tied", "qwen3", "gpt2", "qwen3moe", "mixtral")
    for dtype in ("float32", "bfloat16")
    for shards in ("5GB", "40KB")
    for case in cases(name)
]


@pytest.mark.parametrize(("name", "dtype", "shards", "case"), ALL, ids=["-".join(one) for one in ALL])
def test_every_element_is_peft_s(name, dtype, shards, case, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_VALUES", 1 << 10)  # several blocks of rows, even of these small tensors
    of = base(name, dtype, shards)
    folder = adapter(of, tmp_path / "adapter", dtype, **cases(name)[case])
    live = adapted(of, folder, dtype)
    before = logits(live)
    live.merge_and_unload(safe_merge=False).save_pretrained(tmp_path / "peft", max_shard_size=shards)
    record = merged(of, [folder], tmp_path / "out")
    wanted, found = tensors(tmp_path / "peft"), tensors(tmp_path / "out")
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(wanted[key], found[key])] == []
    assert record["changed"].keys() == {key for key, value in tensors(of).items() if not torch.equal(value, found[key])}
    room = 1e-5 if dtype == "float32" else 2e-2
    assert float((logits(load(tmp_path / "out", dtype)) - before).abs().max()) < room


def test_files_keep_their_names_headers_and_neighbours(tmp_path):
    of = base("mixtral", "bfloat16", "40KB")
    (of / "tokenizer_config.json").write_text('{"a": 1}')
    merged(of, [adapter(of, tmp_path / "a", "bfloat16", target_modules=["q_proj"])], tmp_path / "out")
    assert len(list(of.glob("*.safetensors"))) > 1
    for file in of.iterdir():
        there = tmp_path / "out" / file.name
        if file.suffix == ".safetensors":
            length = 8 + int.from_bytes(file.read_bytes()[:8], "little")
            assert there.read_bytes()[:length] == file.read_bytes()[:length]
            assert there.stat().st_size == file.stat().st_size
            assert there.stat().st_mode & 0o777 == 0o644
        else:
            assert there.read_bytes() == file.read_bytes()
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        *(one.name for one in of.iterdir()),
        "merge.json",
        "README.md",
    }


def test_blocks_of_rows_give_the_bits_of_the_whole_product():
    torch.manual_seed(0)
    from peftkit.merge.changes import LowRank, Scratch

    scratch = Scratch()
    for out, inner, rank in ((2304, 768, 16), (1000, 1000, 5), (96, 640, 7), (800, 4096, 64)):
        for transposed in (False, True):
            change = LowRank(torch.randn(rank, inner), torch.randn(out, rank), 0.7, transposed)
            rows = inner if transposed else out
            whole = change.delta(0, rows, scratch).clone()
            last = rows - rows % 32 - 32
            for first in range(0, last + 1, 32):
                count = 32 if first < last else rows - first
                block = change.delta(first, count, scratch)
                assert torch.equal(block, whole[first : first + count]), (out, inner, rank, transposed, first)
