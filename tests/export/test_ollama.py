"""The template of a Modelfile gives the tokens that the model's own chat template gives."""

import shutil

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from peftkit.errors import ModelError
from peftkit.export.conversation import find_joints, shapes, trims
from peftkit.export.export import export
from peftkit.export.ollama import ollama_joints, stop_words

from .bases import adapter
from .go_template import render
from .templates import CHATML, FAMILIES, REFUSED


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def go(template, messages):
    return render(template, {"Messages": [{"Role": one["role"], "Content": one["content"]} for one in messages]})


def own(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_derived_and_gives_the_same_text_and_tokens(family, tokenizer):
    tokenizer.chat_template = FAMILIES[family]
    tokenizer.bos_token = "<|endoftext|>"
    joints = find_joints(tokenizer)
    system = joints.start_system is not None
    assert system == (family not in ("no system", "instruct"))
    conversations = list(shapes(system=system))
    assert len(conversations) == (50 if system else 25)
    for messages in conversations:
        expected = own(tokenizer, messages)
        assert go(joints.go_template(), messages) == joints.write(messages) == expected
    assert trims(tokenizer) == (family in ("llama 3", "gemma"))


def test_arguments_of_the_template_are_those_of_training(tokenizer):
    tokenizer.chat_template = CHATML + "{% if not thinking %}<think></think>{% endif %}"
    found = find_joints(tokenizer), find_joints(tokenizer, {"thinking": True})
    assert [one.end for one in found] == [
        f"<|im_end|>\n<|im_start|>assistant\n{more}" for more in ("<think></think>", "")
    ]


def test_a_token_that_llama_cpp_puts_first_is_left_to_it(tokenizer):
    tokenizer.chat_template = FAMILIES["llama 3"]
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    template = ollama_joints(tokenizer).go_template()
    assert "<|endoftext|>" not in template
    for messages in shapes(system=True):
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert expected[0] == 0
        assert tokenizer(go(template, messages))["input_ids"] == expected


def test_a_first_token_that_no_template_writes_is_seen(tokenizer):
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    with pytest.raises(ModelError, match="other tokens than its own chat template"):
        ollama_joints(tokenizer)


@pytest.mark.parametrize("family", REFUSED)
def test_a_template_that_does_more_is_refused(family, tokenizer):
    tokenizer.chat_template = REFUSED[family]
    with pytest.raises(ModelError, match="no Go template can be derived"):
        find_joints(tokenizer)


def test_what_a_go_template_cannot_do_is_said(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    date = "{{ strftime_now('%Y') }}" + FAMILIES["no system"].replace("m['content']", "m['content'] | trim")
    (folder / "chat_template.jinja").write_text(date)
    report = export(folder, tmp_path / "out", to="ollama", dtype="f16")
    said = "\n".join(report["warnings"])
    for part in ("joins messages of one role", "takes away space", "writes the date", "takes no system message"):
        assert part in said
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it good?"}]
    assert go(report["template"], messages) == go(report["template"], messages[1:])


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        find_joints(tokenizer)


def test_an_answer_ends_at_the_templates_token_and_the_tokenizers(tokenizer):
    assert stop_words(tokenizer, find_joints(tokenizer)) == ["<|im_end|>"]
    tokenizer.eos_token = "<|endoftext|>"
    assert stop_words(tokenizer, find_joints(tokenizer)) == ["<|endoftext|>", "<|im_end|>"]


def test_the_folder_holds_a_model_and_a_modelfile(tiny_model, tmp_path):
    report = export(tiny_model, tmp_path / "out", to="ollama", dtype="f16")
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"model.gguf", "Modelfile"}
    text = (tmp_path / "out" / "Modelfile").read_text()
    first, template, stop = text.split('"""')[0], text.split('"""')[1], text.split('"""')[2]
    assert first == "FROM ./model.gguf\nTEMPLATE "
    assert stop == '\nPARAMETER stop "<|im_end|>"\n'
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.chat_template == CHATML.replace("m['", "message['").replace("for m in", "for message in")
    messages = [{"role": "user", "content": "Is it good?"}]
    assert go(template, messages) == own(tokenizer, messages)
    assert report["to"] == "ollama"
    assert report["template"] == template


def test_a_model_without_a_template_leaves_nothing(tmp_path):
    with pytest.raises(ModelError, match="has no chat template"):
        export(adapter("llama"), tmp_path / "out", to="ollama")
    assert list(tmp_path.iterdir()) == []
