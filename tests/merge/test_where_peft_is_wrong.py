"""Where PEFT 0.21 merges wrongly, an independent reference in float64 says what is right."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from peftkit.errors import AdapterError

from .bases import adapted, adapter, base, load, logits, merged, tensors

E, H = "model.embed_tokens.weight", "lm_head.weight"


def change(folder, name: str, scale: float) -> torch.Tensor:
    """scale B A of one module in float64, shape (out, in); of embeddings (vocabulary, width)."""
    state = {key: value.double() for key, value in tensors(folder).items()}
    if f"base_model.model.{name}.lora_A.weight" in state:
        return scale * state[f"base_model.model.{name}.lora_B.weight"] @ state[f"base_model.model.{name}.lora_A.weight"]
    a, b = (state[f"base_model.model.{name}.lora_embedding_{part}"] for part in "AB")
    return scale * (b @ a).T


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]], ids="-".join)
def test_tied_embeddings_part_where_one_side_is_changed(targets, tmp_path):
    of = base("tied")
    folder = adapter(of, tmp_path / "a", target_modules=["q_proj", *targets])
    live = logits(adapted(of, folder))
    wrong = adapted(of, folder).merge_and_unload()
    assert float((logits(wrong) - live).abs().max()) > 1e-3  # PEFT adds each change to both sides
    record = merged(of, [folder], tmp_path / "out")
    shared = tensors(of)[E].double()
    found = tensors(tmp_path / "out")
    for name, key in (("embed_tokens", E), ("lm_head", H)):
        path = "model.embed_tokens" if name == "embed_tokens" else name
        wanted = shared + change(folder, path, 9 / 4) if name in targets else shared
        assert torch.allclose(found[key].double(), wanted, rtol=1e-6, atol=1e-7)
    assert record["untied"] == [H]
    out = load(tmp_path / "out")
    assert out.config.tie_word_embeddings is False
    assert float((logits(out) - live).abs().max()) < 1e-5


def test_tied_embeddings_part_in_files_that_hold_both_sides(tmp_path):
    of = tmp_path / "both"
    of.mkdir()
    for file in base("tied").iterdir():
        (of / file.name).write_bytes(file.read_bytes())
    state = tensors(of)
    save_file({**state, H: state[E].clone()}, of / "model.safetensors", metadata={"format": "pt"})
    folder = adapter(of, tmp_path / "a", target_modules=["q_proj", "lm_head"])
    live = logits(adapted(of, folder))
    record = merged(of, [folder], tmp_path / "out")
    assert record["untied"] == [H]
    assert float((logits(load(tmp_path / "out")) - live).abs().max()) < 1e-5


def test_embeddings_that_are_tied_in_the_adapter_stay_tied_and_get_the_change_once(tmp_path):
    of = base("tied")
    folder = adapter(of, tmp_path / "a", target_modules=["q_proj"], r=4)
    model = get_peft_model(
        load(of),
        LoraConfig(r=4, lora_alpha=9, task_type="CAUSAL_LM", target_modules=["embed_tokens"], ensure_weight_tying=True),
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_embedding" in name:
                value.normal_(std=0.02)
    live = logits(model)
    model.save_pretrained(folder)
    record = merged(of, [folder], tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert H not in found
    assert record["untied"] == []
    wanted = tensors(of)[E].double() + change(folder, "model.embed_tokens", 9 / 4)
    assert torch.allclose(found[E].double(), wanted, rtol=1e-6, atol=1e-7)
    assert float((logits(load(tmp_path / "out")) - live).abs().max()) < 1e-5
    twice = adapted(of, folder).merge_and_unload()
    assert float((logits(twice) - live).abs().max()) > 1e-3


def test_replicated_layers_are_refused(tmp_path):
    of = base("llama")
    folder = adapter(of, tmp_path / "a", target_modules=["q_proj"], layer_replication=[[0, 2], [0, 1]])
    with pytest.raises(AdapterError, match="layer_replication"):
        merged(of, [folder], tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_merge_that_rounding_would_take_away_is_refused(tmp_path):
    of = base("llama", "bfloat16")
    folder = adapter(of, tmp_path / "a", "bfloat16", scale=1e-3, target_modules=["q_proj"], lora_alpha=1)
    with pytest.raises(AdapterError, match=r"would take the adapter away: of the change of '.*q_proj.weight' \d%"):
        merged(of, [folder], tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    record = merged(of, [folder], tmp_path / "out", force=True)
    assert "would take the adapter away" in record["forced"][0]


def test_a_plain_model_class_is_not_needed_for_models_without_one(tmp_path):
    torch.manual_seed(0)
    of = tmp_path / "base"
    transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
    ).save_pretrained(of)
    config = (of / "config.json").read_text().replace('"architectures"', '"was"')
    (of / "config.json").write_text(config)
    folder = adapter(of, tmp_path / "a", target_modules=["q_proj"])
    merged(of, [folder], tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == config
