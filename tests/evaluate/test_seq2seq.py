"""Answers of encoder-decoder models against transformers' generation and a plain pass, one row at a time."""

import pytest
import torch

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.data.encode_seq2seq import Seq2SeqEncoder
from peftkit.evaluate.seq2seq import answer_seq2seq
from peftkit.model.load import find_model, load_model, load_tokenizer

from ..models import SEQ2SEQ, tiny

torch.set_num_threads(1)
machine.quiet_libraries()
TEXTS = ("it was a good film", "bad", "a lovely book by a fine a great a poor", "film no. 7", "it", "was it dull")
NEW = 8


class Asked:
    """A model that says something else to each text, and how to ask it."""

    def __init__(self, name, labels=None):
        config = RunConfig(
            recipe="sentiment",
            task={"kind": "classification", "labels": labels},
            model={"path": str(tiny(name)), "quantization": "none", "dtype": "float32"},
        )
        source = find_model(config.model)
        self.tokenizer = load_tokenizer(source)
        self.model = load_model(source, config, "seq2seq")
        self.encoder = Seq2SeqEncoder(self.tokenizer, config.task, max_length=64, max_new_tokens=12)
        self.model.generation_config.forced_eos_token_id = None  # BART's ends an answer that is as long as it may be
        torch.manual_seed(2)
        with torch.no_grad():
            for value in self.model.parameters():
                if value.dim() > 1:
                    value.normal_(std=0.4)
        self.prompts = [self.encoder.prompt_ids({"text": text}) for text in TEXTS]

    def ask(self, prompts=None, batch_size=4, on_batch=None, separator=None):
        return answer_seq2seq(
            self.model,
            self.tokenizer,
            self.prompts if prompts is None else prompts,
            label_ids=self.encoder.label_ids(),
            end_ids=self.encoder.end_ids,
            max_new_tokens=NEW,
            batch_size=batch_size,
            separator=separator,
            on_batch=on_batch,
        )

    def written(self, prompt):
        """Take the likeliest token again and again, reading everything anew each time."""
        start = self.model.config.decoder_start_token_id
        first = self.tokenizer(text_target="a")["input_ids"][0]
        ids = [start, first] if self.tokenizer.bos_token_id == first else [start]
        with torch.inference_mode():
            while (len(ids) <= NEW and ids[-1] not in self.encoder.end_ids) or len(ids) == 1:
                output = self.model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([ids]))
                ids.append(int(output.logits[0, -1].argmax()))
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def log_likelihood(self, prompt, label):
        start = self.model.config.decoder_start_token_id
        with torch.inference_mode():
            output = self.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *label[:-1]]])
            )
        likelihood = output.logits[0].double().log_softmax(-1)
        return sum(float(likelihood[place, token]) for place, token in enumerate(label))


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_texts_are_the_likeliest_tokens_one_by_one(name):
    asked = Asked(name)
    texts = [one.text for one in asked.ask()]
    assert len(set(texts)) > 2
    assert texts == [asked.written(prompt) for prompt in asked.prompts]


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_the_models_own_beams_and_penalties_do_not_count(name):
    asked = Asked(name)
    plain = asked.ask()
    asked.model.generation_config.update(
        num_beams=4, min_length=7, no_repeat_ngram_size=2, repetition_penalty=3.0, do_sample=True
    )
    assert asked.ask() == plain


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_scores_are_log_likelihoods_of_the_whole_label(name):
    asked = Asked(name, labels=("good", "bad film", "a"))
    for prompt, one in zip(asked.prompts, asked.ask(), strict=True):
        expected = {label: asked.log_likelihood(prompt, ids) for label, ids in asked.encoder.label_ids().items()}
        assert dict(one.scores) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_batch_size_changes_nothing_and_every_row_is_counted_once(name):
    asked, counts = Asked(name, labels=("good", "bad film")), []
    alone = [asked.ask([prompt])[0] for prompt in asked.prompts]
    together = asked.ask(on_batch=counts.append)
    assert counts == [4, 2]
    assert [one.text for one in together] == [one.text for one in alone]
    for one, single in zip(together, alone, strict=True):
        assert dict(one.scores) == pytest.approx(dict(single.scores), abs=2e-3)
    assert asked.ask([]) == []


def test_a_text_that_is_a_label_counts_as_it():
    said = Asked("t5").ask()[0].text
    labels = (said, "good")
    asked = Asked("t5", labels=labels)
    assert asked.ask()[0].label == said
    assert asked.ask(separator=",")[0].labels == (said,)
    assert asked.ask(separator=",")[0].scores == {}
