"""Which programs take an adapter, and the command lines by which they serve it."""

import shlex
import shutil

import pytest

from peftkit.adapter.attach import PEFT_CONFIG
from peftkit.errors import AdapterError, ConfigError
from peftkit.export.commands import SERVERS, serving_commands
from peftkit.export.export import export
from peftkit.export.readers import READERS, judge_reader, read_facts
from peftkit.merge.shrink import shrink

from ..merge.adapters import edit_settings
from .bases import base, make_adapter

PLAIN = {"use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of adapters: a plain LoRA, and rsLoRA with patterns."""
    folder = tmp_path_factory.mktemp("verdicts")
    make_adapter("llama", folder / "plain", **PLAIN)
    make_adapter("llama", folder / "patterned")
    return folder


@pytest.fixture
def edited(made, tmp_path):
    """A plain LoRA with other settings."""

    def make(**settings):
        folder = tmp_path / "edited"
        shutil.copytree(made / "plain", folder, dirs_exist_ok=True)
        edit_settings(folder, **settings)
        return folder

    return make


def ways(folder):
    return {reader: judge_reader(folder, reader).way for reader in READERS}


def test_a_plain_lora_is_taken_as_it_is_where_peft_folders_are_read(made):
    assert ways(made / "plain") == {
        "vllm": "as it is",
        "llama.cpp": "export",
        "mlx": "export",
        "sglang": "as it is",
        "ollama": "merge",
    }
    verdict = judge_reader(made / "plain", "vllm")
    assert verdict.takes
    assert (verdict.problems, verdict.commands) == ((), ())


def test_scales_that_sglang_would_not_look_up_need_the_portable_form(made, tmp_path):
    assert ways(made / "patterned")["vllm"] == "as it is"
    verdict = judge_reader(made / "patterned", "sglang")
    assert (verdict.takes, verdict.way) == (False, "export")
    assert "rsLoRA and patterns would be computed wrong" in verdict.problems[0]
    assert verdict.commands == ("peftkit export ADAPTER portable --to portable",)
    export(made / "patterned", tmp_path / "out", to="portable")
    assert judge_reader(tmp_path / "out", "sglang").takes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "is DoRA, whose change depends on the base weights"),
        ({"lora_bias": True}, "with a bias of its own"),
        ({"bias": "lora_only"}, "with the base's biases"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "on repeated layers"),
        ({"peft_type": "IA3"}, "of the kind IA3, not LoRA"),
    ],
)
def test_what_is_no_plain_lora_has_to_be_merged_everywhere(settings, said, edited):
    folder = edited(**settings)
    assert set(ways(folder).values()) == {"merge"}
    for reader in ("vllm", "llama.cpp", "mlx", "sglang"):
        verdict = judge_reader(folder, reader)
        assert said in verdict.problems[0]
        assert verdict.commands


@pytest.mark.parametrize("settings", [{"peft_type": "PREFIX_TUNING"}, {"alora_invocation_tokens": [1]}])
def test_what_cannot_be_merged_is_for_peft_alone(settings, edited):
    folder = edited(**settings)
    assert set(ways(folder).values()) == {"none"}
    assert "can be served by PEFT alone" in judge_reader(folder, "vllm").problems[0]


def test_a_head_is_served_by_no_program_that_writes_on(edited):
    found = ways(edited(task_type="SEQ_CLS"))
    assert (found["llama.cpp"], found["mlx"], found["ollama"]) == ("none", "none", "none")


def test_whole_modules_and_embeddings_have_to_be_merged(tmp_path):
    whole = make_adapter("qwen2", tmp_path / "whole", modules_to_save=["norm"], **PLAIN)
    assert read_facts(whole).whole[-1] == "model.norm.weight"
    assert set(ways(whole).values()) == {"merge"}
    embedded = make_adapter("qwen2", tmp_path / "e", target_modules=["embed_tokens", "q_proj"], **PLAIN)
    assert read_facts(embedded).embeddings == ("model.embed_tokens",)
    assert set(ways(embedded).values()) == {"merge"}


def test_integers_need_the_portable_form(made, tmp_path):
    shrink(made / "plain", tmp_path / "out", dtype="int8")
    verdict = judge_reader(tmp_path / "out", "vllm")
    assert (verdict.way, "packed integers" in verdict.problems[0]) == ("export", True)


def test_ranks_that_vllm_has_no_room_for(tmp_path):
    folder = make_adapter("llama", tmp_path / "a", **{**PLAIN, "r": 600, "target_modules": ["q_proj"]})
    assert "ranks up to 512, and the adapter has 600" in judge_reader(folder, "vllm").problems[0]


def test_a_reader_that_nobody_knows_and_files_that_are_damaged(made, tmp_path):
    with pytest.raises(ConfigError, match=r"--for tgi is not one of vllm, llama\.cpp, mlx, sglang, ollama"):
        judge_reader(made / "plain", "tgi")
    (tmp_path / PEFT_CONFIG).write_text("{}")
    with pytest.raises(AdapterError, match=r"has no adapter_model\.safetensors"):
        judge_reader(tmp_path, "vllm")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 9)
    with pytest.raises(AdapterError, match="is damaged"):
        judge_reader(tmp_path, "vllm")


def test_command_lines_name_everything(made):
    vllm, llama, sglang = serving_commands(made / "plain", port=9000)
    folder, of = str((made / "plain").resolve()), str(base("llama"))
    where = "--host 127.0.0.1 --port 9000"
    assert vllm.lines == [
        f"vllm serve {of} --enable-lora --max-lora-rank 8 --lora-modules plain={folder} {where}",
    ]
    assert sglang.lines == [
        f"python -m sglang.launch_server --model-path {of} --enable-lora --max-lora-rank 4 --lora-paths plain={folder} "
        f"{where}",
    ]
    assert llama.lines == [
        f"peftkit export {of} llama.gguf --to gguf",
        f"peftkit export {made / 'plain'} plain-lora.gguf --to gguf-lora",
        f"llama-server --model llama.gguf --lora plain-lora.gguf --alias plain --jinja {where}",
    ]
    assert [one.model for one in (vllm, llama, sglang)] == ["plain"] * 3


def test_what_a_server_does_not_take_is_made_first(made, edited):
    _, _, sglang = serving_commands(made / "patterned")
    assert sglang.lines[0] == f"peftkit export {made / 'patterned'} patterned-portable --to portable"
    assert "patterned=patterned-portable" in sglang.lines[1]
    vllm, llama, _ = serving_commands(edited(use_dora=True), base="Qwen/Qwen3-4B")
    assert vllm.lines[0].endswith("edited-merged --base Qwen/Qwen3-4B")
    assert "vllm serve edited-merged --served-model-name edited" in vllm.lines[1]
    assert "--enable-lora" not in vllm.lines[1]
    assert llama.lines[0].endswith("edited.gguf --to gguf --base Qwen/Qwen3-4B")
    none = serving_commands(edited(use_dora=False, peft_type="PREFIX_TUNING"))
    assert [(one.lines, bool(one.notes)) for one in none] == [([], True)] * len(SERVERS)


def test_a_line_with_spaces_is_one_for_a_shell(made, tmp_path):
    folder = tmp_path / "my adapter"
    shutil.copytree(made / "plain", folder)
    (vllm,) = serving_commands(folder, servers=["vllm"])
    assert f"my adapter={folder}" in shlex.split(vllm.lines[0])


def test_a_revision_is_kept_and_a_base_is_needed(edited):
    folder = edited(base_model_name_or_path="some/model", revision="abc")
    vllm = serving_commands(folder, servers=["vllm"])[0]
    assert "vllm serve some/model --revision abc" in vllm.lines[0]
    with pytest.raises(AdapterError, match="name it with --base"):
        serving_commands(edited(base_model_name_or_path=None))
    with pytest.raises(ConfigError, match="no command lines for 'tgi'"):
        serving_commands(folder, servers=["tgi"])
