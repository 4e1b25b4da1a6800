"""Batched answers against transformers' own generation and a plain forward pass, one row at a time."""

import pytest
import torch

from peftkit.evaluate.answers import Answer, answer, match_label

from ..stages import Stages, make_visible

NEW = 8


@pytest.fixture(params=["none", "nf4"])
def run(small, request):
    return Stages.of([*small, f"model.quantization={request.param}", "model.dtype=float32", "adapter.r=4"])


@pytest.fixture
def model(run):
    return make_visible(run.adapted()).eval()


@pytest.fixture
def prompts():
    """Random prompts of ragged lengths, out of order."""
    generator = torch.Generator().manual_seed(3)
    lengths = (17, 1, 40, 5, 40, 2, 23, 9, 31)
    return [torch.randint(3, 259, (length,), generator=generator).tolist() for length in lengths]


def ask(run, model, prompts, *, labels=None, end_ids=frozenset({2}), batch_size=4, max_new_tokens=NEW, on_batch=None):
    return answer(
        model,
        run.encoder.tokenizer,
        prompts,
        label_ids=labels or {},
        end_ids=end_ids,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_batch=on_batch,
    )


def generate(run, model, prompt, end_ids, max_new_tokens=NEW):
    """Let transformers generate from one prompt; return the new ids."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(end_ids),
            pad_token_id=0,
        )
    return made[0, len(prompt) :].tolist()


def text_of(run, ids):
    return run.encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_texts_are_those_that_transformers_generates_row_by_row(run, model, prompts):
    whole = [generate(run, model, prompt, {2}) for prompt in prompts]
    assert len({tuple(ids) for ids in whole}) > 5
    # A token that some rows generate early, and others late or never, ends answers at different steps.
    end_ids = frozenset({2, whole[0][2]})
    ended = [generate(run, model, prompt, end_ids) for prompt in prompts]
    assert len({len(ids) for ids in ended}) > 1
    expected = [text_of(run, [token for token in ids if token not in end_ids]) for ids in ended]
    assert [one.text for one in ask(run, model, prompts, end_ids=end_ids)] == expected
    assert [one.text for one in ask(run, model, prompts)] == [text_of(run, ids) for ids in whole]


def log_likelihood(model, prompt, label):
    """Sum the log-probabilities of a label's tokens from one pass over everything."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + label])).logits[0].double()
    return sum(float(logits[len(prompt) + place - 1].log_softmax(-1)[token]) for place, token in enumerate(label))


def test_scores_are_log_likelihoods_of_a_plain_pass(run, model, prompts):
    labels = {"one": [7, 2], "three": [11, 12, 13, 2], "end": [2]}
    for prompt, one in zip(prompts, ask(run, model, prompts, labels=labels), strict=True):
        expected = {name: log_likelihood(model, prompt, ids) for name, ids in labels.items()}
        assert dict(one.scores) == pytest.approx(expected, abs=1e-4)
        assert one.likeliest == max(expected, key=expected.get)


def test_scoring_labels_does_not_change_the_text(run, model, prompts):
    labels = {"one": [7, 2], "three": [11, 12, 13, 2]}
    with_labels = [one.text for one in ask(run, model, prompts, labels=labels)]
    assert with_labels == [one.text for one in ask(run, model, prompts)]


def test_batch_size_changes_nothing_and_order_is_that_of_the_prompts(run, model, prompts):
    labels = {"one": [7, 2], "three": [11, 12, 13, 2]}
    alone = [ask(run, model, [prompt], labels=labels)[0] for prompt in prompts]
    assert len({one.text for one in alone}) > 5
    for batch_size in (1, 3, 50):
        together = ask(run, model, prompts, labels=labels, batch_size=batch_size)
        assert [one.text for one in together] == [one.text for one in alone]
        for one, single in zip(together, alone, strict=True):
            assert dict(one.scores) == pytest.approx(dict(single.scores), abs=2e-4)


def test_every_prompt_is_counted_once(run, model, prompts):
    counts = []
    ask(run, model, prompts, max_new_tokens=1, on_batch=counts.append)
    assert counts == [4, 4, 1]
    assert ask(run, model, []) == []


def test_an_answer_is_as_long_as_it_may_be(run, model, prompts):
    for length in (1, 3):
        ids = generate(run, model, prompts[0], set(), length)
        assert len(ids) == length
        texts = [one.text for one in ask(run, model, prompts[:1], end_ids=frozenset(), max_new_tokens=length)]
        assert texts == [text_of(run, ids)]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        ("Positive", "positive"),
        (" POSITIVE.\n", "positive"),
        ('"negative"!', "negative"),
        ("**negative**", "negative"),
        ("not good", "Not Good"),
        ("the label is positive", None),
        ("positive negative", None),
        ("positiv", None),
        ("", None),
        ("...", None),
        ("quoted", "'quoted'"),
    ],
)
def test_a_text_is_a_label_up_to_case_punctuation_and_blanks(text, label):
    assert match_label(text, ("negative", "positive", "Not Good", "'quoted'")) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [("c++", "C++"), ("C", "C"), ("C#", "C#"), (" C++ ", "C++"), ("C.", "C"), ("C++!", "C++"), ("C+", "C")],
)
def test_labels_that_differ_in_punctuation_are_told_apart(text, label):
    assert match_label(text, ("C", "C++", "C#")) == label


@pytest.mark.parametrize(
    ("text", "label"), [("-1", "-1"), ("1", "1"), ("+", "+"), ("-", "-"), ("-1.", "-1"), ("", None), ("?", None)]
)
def test_labels_of_signs_are_told_apart(text, label):
    assert match_label(text, ("1", "-1", "+", "-")) == label


def test_the_likeliest_label_has_the_highest_score():
    assert Answer("", None, {"a": -3.0, "b": -1.0, "c": -2.0}).likeliest == "b"
    assert Answer("").likeliest is None
