"""Each kind of base model: attach an adapter, change it, save it, and load it back onto a base loaded anew."""

import pytest
import torch

from peftkit import machine
from peftkit.adapter.attach import attach, load_adapter, save_adapter
from peftkit.config import RunConfig
from peftkit.data.encoders import make_encoder
from peftkit.data.rows import Row
from peftkit.evaluate.ask import answer_examples
from peftkit.model.family import TASK_TYPES, family_of
from peftkit.model.fingerprint import fingerprint, tokenizer_hash
from peftkit.model.load import find_model, load_model, load_tokenizer

from ..models import ENCODERS, SEQ2SEQ, tiny

torch.set_num_threads(1)
machine.quiet_libraries()
ROWS = [
    Row(f"rows:{number}", {"text": f"it was a {word} film", "label": label})
    for number, (word, label) in enumerate((("good", "good"), ("lovely", "good"), ("bad", "bad"), ("dull", "bad")))
]


class Stage:
    """What a run does with a base model before and after training."""

    def __init__(self, name, quantization="none"):
        self.config = RunConfig(
            recipe="sentiment",
            task={"kind": "classification", "labels": ("bad", "good"), "answer": "auto" if name != "llama" else "head"},
            model={"path": str(tiny(name)), "quantization": quantization, "dtype": "float32"},
            adapter={"r": 4},
            train={"seed": 7},
        )
        self.source = find_model(self.config.model)
        self.family = family_of(self.source, self.config)
        self.encoder = make_encoder(self.family, load_tokenizer(self.source), self.config)
        self.examples = [example for [example] in self.encoder.encode_rows(ROWS)]

    def base(self):
        return load_model(self.source, self.config, self.family)

    def adapted(self):
        config = self.config
        task_type = TASK_TYPES[self.family]
        return attach(self.base(), config.adapter, base=config.model, seed=config.train.seed, task_type=task_type)

    def answers(self, model):
        return answer_examples(model.eval(), self.family, self.encoder, self.examples, self.config)


def change(model):
    """Give all that is trained an effect of its own."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.2)
    return model


@pytest.mark.parametrize(
    ("name", "quantization"),
    [*((name, "none") for name in (*ENCODERS, "llama", *SEQ2SEQ)), ("bert", "nf4"), ("llama", "int8"), ("t5", "nf4")],
)
def test_a_saved_adapter_gives_the_same_answers_on_a_base_loaded_anew(tmp_path, name, quantization):
    stage = Stage(name, quantization)
    model = stage.adapted()
    started = stage.answers(model)
    assert started == stage.answers(stage.base())
    trained = stage.answers(change(model))
    assert trained != started
    save_adapter(model, tmp_path)
    torch.manual_seed(99)
    assert stage.answers(load_adapter(stage.base(), tmp_path)) == trained
    with model.disable_adapter():
        assert stage.answers(model) == started


@pytest.mark.parametrize("name", [*ENCODERS, "llama"])
def test_what_starts_at_random_is_saved_with_the_adapter(tmp_path, name):
    """Whoever has base model and adapter has the whole model: nothing of the head depends on a seed."""
    stage = Stage(name)
    model = change(stage.adapted())
    save_adapter(model, tmp_path)
    other = stage.config.model_copy(update={"train": stage.config.train.model_copy(update={"seed": 8})})
    base = load_model(stage.source, other, stage.family)
    assert stage.answers(load_adapter(base, tmp_path)) == stage.answers(model)


@pytest.mark.parametrize("name", [*ENCODERS, "llama", *SEQ2SEQ])
def test_weights_and_tokenizer_have_their_marks(name):
    source = find_model(Stage(name).config.model)
    assert len(fingerprint(source)) == len(tokenizer_hash(load_tokenizer(source))) == 64
    assert fingerprint(source) == fingerprint(find_model(Stage(name).config.model))
