"""The card says what the passport says, whatever names it holds."""

import re

import pytest
import yaml

from peftkit.adapter.card import markdown, write_card
from peftkit.adapter.passport import Base, MadeFrom, Parent, Passport, Tokenizer
from peftkit.config import RunConfig

HOSTILE = (
    "one\ntwo",
    "---\nlicense: mit\n---",
    "--- ",
    "# Heading",
    "- item",
    "1. item",
    "~~~",
    "```",
    "a | b | c",
    "<script>alert(1)</script>",
    "[here](https://example.org) ![x](y)",
    "{{ passport }} {% raw %}",
    "\\| \\",
    "two\u2028lines\x0b\x0c\x85",
)


def metric(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 400}


def passport(name="plain", metric_name="Accuracy", percent=True, **adapter):
    return Passport(
        recipe=name,
        intended_use=name,
        base=Base(path=name, revision=name, architecture="Llama", fingerprint="0", quantization="nf4", dtype="float32"),
        tokenizer=Tokenizer(vocabulary_sha256="0", template_sha256="0", template=name),
        config=RunConfig(recipe=name, adapter=adapter),
        data={"source": {"name": name, "licence": name}, "rows": {"train": 800, "validation": 5, "test": 400}},
        before={"key": metric(0.513, 0.46, 0.56)},
        after={"key": metric(0.862, 0.83, 0.89)},
        difference={"key": metric(0.349, 0.301, 0.402)},
        metrics={"key": {"name": metric_name, "percent": percent, "better": "higher"}},
        versions={"torch": "2.13.0", name: name},
        files={},
    )


def card(tmp_path, one):
    write_card(tmp_path, one)
    return (tmp_path / "README.md").read_text(encoding="utf-8")


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def test_figures_are_those_of_the_passport(tmp_path):
    text = card(tmp_path, passport())
    row = next(line for line in text.splitlines() if "51.3%" in line)
    found = cells(row)
    assert found[0] == "Accuracy"
    assert found[1:3] == ["51.3%", "86.2%"]
    assert [figure in found[3] for figure in ("34.9", "30.1", "40.2")] == [True] * 3
    assert found[4] == "400"
    assert "800 for training, 400 held out" in text
    assert "torch 2.13.0, plain plain" in text


def test_figures_that_are_no_shares_are_written_as_they_are(tmp_path):
    one = passport(metric_name="Mean squared error", percent=False)
    one.before["key"]["value"] = None  # the base model gave no score at all
    row = next(line for line in card(tmp_path, one).splitlines() if "Mean squared error" in line)
    assert cells(row)[1:4] == ["not defined", "0.862", "0.349 (0.301 to 0.402)"]


def test_the_method_is_the_one_that_was_trained(tmp_path):
    assert "# plain: an adapter made with LoRA\n" in card(tmp_path, passport())
    text = card(tmp_path, passport(method="ia3"))
    assert "LoRA" not in text
    assert "  - lora\n" not in text
    assert "| method | ia3 |" in text
    assert "None" not in text


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_break_neither_head_nor_table_nor_page(tmp_path, name):
    plain = card(tmp_path, passport())
    text = card(tmp_path, passport(name, metric_name=name))
    head, rest = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(head) == yaml.safe_load(plain.split("---\n")[1])
    lines, plain_lines = rest.splitlines(), plain.split("---\n", 2)[2].splitlines()
    assert len(lines) == len(plain_lines)
    for line, of_plain in zip(lines, plain_lines, strict=True):
        assert len(cells(line)) == len(cells(of_plain)) if of_plain.startswith("|") else True
        assert kind(line) == kind(of_plain)
    assert not re.search(r"<\w|(?<!\\)\]\(", rest)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_of_parents_break_no_table(tmp_path, name):
    def made(word):
        parents = (Parent(name=word, weights_sha256="0", weight=0.5), Parent(name="b", weights_sha256="1"))
        return MadeFrom(change="combine", parents=parents, settings={"method": word}, energy_kept=0.9, kl=1e-5)

    texts = [card(tmp_path, passport().model_copy(update={"made_from": made(word)})) for word in ("plain", name)]
    plain, hostile = (text.splitlines() for text in texts)
    assert len(hostile) == len(plain)
    for line, of_plain in zip(hostile, plain, strict=True):
        assert len(cells(line)) == len(cells(of_plain)) if of_plain.startswith("|") else True
        assert kind(line) == kind(of_plain)


def test_the_card_of_a_made_adapter_says_how_it_was_made(tmp_path):
    parents = (Parent(name="mails", weights_sha256="abc", weight=0.5),)
    made = MadeFrom(change="shrink", parents=parents, settings={"dtype": "bf16"}, energy_kept=0.912, kl=2e-5)
    text = card(tmp_path, passport().model_copy(update={"made_from": made, "before": {}, "after": {}}))
    for line in ("| mails | 0.5 | abc |", "| dtype | bf16 |", "| energy kept | 91.2% |", "`peftkit shrink`"):
        assert line in text
    assert "2e-05 nats a token" in text
    assert "## Training of the first" in text
    assert "The figures hold" not in text
    assert "The figures hold" in card(tmp_path, passport())


def kind(line):
    """Tell what Markdown takes a line for by how it begins."""
    found = re.match(r" {0,3}(#{1,6} |```|~~~|[-*_=]{3,}|[-+*] |\d+[.)] |> |\| ?)", line)
    return found[1] if found else None


def test_a_card_without_an_evaluation_has_no_table_of_metrics(tmp_path):
    text = card(tmp_path, passport().model_copy(update={"before": {}, "after": {}, "difference": {}, "metrics": {}}))
    assert "| metric |" not in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("-1.5%", "-1.5%"),
        ("2.13.0", "2.13.0"),
        ("a_b", r"a\_b"),
        (3, 3),
        (None, None),
    ],
)
def test_what_is_no_markup_stays_as_it_is(value, written):
    assert markdown(value) == written
