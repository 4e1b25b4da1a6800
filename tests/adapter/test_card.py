"""The card says what the passport says, whatever names it holds."""

import ast
import json
import re

import pytest
from markdown_it import MarkdownIt

from peftkit.adapter.card import is_made_card, licence_text, markdown, renew_card, write_card
from peftkit.adapter.passport import Base, MadeFrom, Parent, Passport, Tokenizer
from peftkit.config import RunConfig
from peftkit.errors import AdapterError, OutputError
from peftkit.model.licence import HUB_LICENCES, Licence

from .hub_rules import HEAD, read_head

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
    "'); import os #",
    '"""\n```\n# Out',
    "x: y\n- z: &a [*a]",
    "--- \nlicense: mit",
    "{% include '/etc/passwd' %} {{ 7 * 7 }} {# gone",
    "-->\n<!-- written by peftkit, " + "0" * 64 + " -->",
)


def metric(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 400}


def passport(name="plain", metric_name="Accuracy", percent=True, task=None, licence=None, source=None, **adapter):
    hostile = name != "plain"
    words = {"system": f"System {name} {{labels}}", "prompt": f"{name} {{text}}", "labels": ["a", name]}
    return Passport(
        recipe=name,
        intended_use=name,
        base=Base(
            path=name,
            revision=name,
            architecture=f"{name}ForCausalLM" if hostile else "LlamaForCausalLM",
            fingerprint="0",
            quantization="nf4",
            dtype="float32",
            licence=licence or Licence(id="other", name=name, link=name, found=name),
        ),
        tokenizer=Tokenizer(vocabulary_sha256="0", template_sha256="0", template=name),
        config=RunConfig(recipe=name, adapter=adapter, task={"kind": "classification", **words, **(task or {})}),
        data={
            "source": source or {"name": name, "licence": name},
            "rows": {"train": 800, "validation": 5, "test": 400},
        },
        before={"accuracy": metric(0.513, 0.46, 0.56)},
        after={"accuracy": metric(0.862, 0.83, 0.89)},
        difference={"accuracy": metric(0.349, 0.301, 0.402)},
        metrics={"accuracy": {"name": metric_name, "percent": percent, "better": "higher"}},
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
    assert cells(row) == [
        "Accuracy",
        "51.3% (46.0% to 56.0%)",
        "86.2% (83.0% to 89.0%)",
        "+34.9 points (+30.1 to +40.2)",
        "400",
    ]
    assert "800 rows for training, 400 held out" in text
    assert "torch 2.13.0, plain plain" in text


def test_figures_that_are_no_shares_are_written_as_they_are(tmp_path):
    one = passport(metric_name="Mean squared error", percent=False)
    one.before["accuracy"]["value"] = None  # the base model gave no score at all
    row = next(line for line in card(tmp_path, one).splitlines() if line.startswith("| Mean squared"))
    assert cells(row)[1:4] == ["not defined", "0.862 (0.83 to 0.89)", "+0.349 (+0.301 to +0.402)"]


def test_the_method_is_the_one_that_was_trained(tmp_path):
    assert "# plain: an adapter made with LoRA\n" in card(tmp_path, passport())
    text = card(tmp_path, passport(method="ia3"))
    assert "made with LoRA" not in text
    assert "- lora\n" not in text
    assert "| method | ia3 |" in text
    assert "vLLM 0.32 does not take it as it is: the adapter is of the kind IA3, not LoRA" in text
    assert "None" not in text


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_break_neither_head_nor_table_nor_page(tmp_path, name):
    settings = {"peft_type": "LORA", "r": 16, "rank_pattern": {name: 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    plain = card(tmp_path, passport(licence=Licence(id="other", name="plain", found="plain")))
    text = card(tmp_path, passport(name, metric_name=name))
    head, plain_head = read_head(text), read_head(plain)
    assert head.keys() - {"license_link"} == plain_head.keys()
    rest = text[HEAD.match(text).end() :]
    lines, plain_lines = rest.splitlines(), plain[HEAD.match(plain).end() :].splitlines()
    assert len(lines) == len(plain_lines)
    for line, of_plain in zip(lines, plain_lines, strict=True):
        assert len(cells(line)) == len(cells(of_plain)) if of_plain.startswith("|") else True
        assert kind(line) == kind(of_plain)
    outside = re.sub(r"^```\w*\n.*?^```$", "", rest, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"<\w|(?<!\\)\]\(", outside)
    assert elements(rest) == elements(plain[HEAD.match(plain).end() :])
    assert is_made_card(tmp_path / "README.md")
    code = re.findall(r"^```python\n(.*?)^```$", rest, flags=re.DOTALL | re.MULTILINE)
    assert len(code) == 2
    for one in code:
        imported = [node.module for node in ast.walk(ast.parse(one)) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert set(imported) <= {"peft", "transformers", "vllm", "vllm.lora.request"}


def test_the_head_says_base_licence_data_and_results(tmp_path):
    source = {
        "name": "reviews:main",
        "sources": [
            {"name": "a", "repo": "owner/a", "config": "main", "revision": "c0ffee", "languages": ["en", "de", "x y"]},
            {"name": "b", "repo": "./local", "licence": "mit"},
        ],
    }
    one = passport(licence=Licence(id="llama3.1", found="LICENSE"), source=source)
    base = one.base.model_copy(update={"path": "owner/base"})
    head = read_head(card(tmp_path, one.model_copy(update={"base": base})))
    assert head == {
        "base_model": "owner/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "llama3.1",
        "pipeline_tag": "text-classification",
        "language": ["en", "de"],
        "datasets": ["owner/a"],
        "metrics": ["accuracy"],
        "tags": ["base_model:adapter:owner/base", "lora", "transformers", "peftkit"],
        "model-index": [
            {
                "name": "plain",
                "results": [
                    {
                        "task": {"type": "text-classification", "name": "Text Classification"},
                        "dataset": {
                            "name": "reviews:main",
                            "type": "owner/a",
                            "config": "main",
                            "split": "400 held-out rows",
                            "revision": "c0ffee",
                        },
                        "metrics": [{"type": "accuracy", "value": 0.862, "name": "Accuracy"}],
                    }
                ],
            }
        ],
    }


def test_bleu_is_written_as_sacrebleu_does(tmp_path):
    one = passport()
    parts = {"bleu": metric(0.241, 0.2, 0.3)}
    named = {"bleu": {"name": "BLEU", "percent": True, "better": "higher"}}
    text = card(
        tmp_path, one.model_copy(update=dict.fromkeys(("before", "after", "difference"), parts) | {"metrics": named})
    )
    result = read_head(text)["model-index"][0]["results"][0]
    assert result["metrics"] == [{"type": "sacrebleu", "value": 24.1, "name": "BLEU"}]


def test_a_folder_of_a_base_is_not_told_and_is_no_id_of_the_hub(tmp_path):
    base = passport().base.model_copy(update={"path": "/home/someone/models/mine", "revision": None})
    text = card(tmp_path, passport().model_copy(update={"base": base}))
    assert "someone" not in text
    assert "| base model | mine |" in text
    assert "base_model" not in read_head(text)


def test_the_licence_of_an_embedded_base_is_that_of_its_table(tmp_path):
    base = passport().base.model_copy(update={"path": "smollm2-135m-instruct", "licence": None})
    text = card(tmp_path, passport().model_copy(update={"base": base}))
    head = read_head(text)
    assert (head["license"], head["base_model"]) == ("apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert "a copy of HuggingFaceTB/SmolLM2-135M-Instruct with weights rounded to 4 bits (Q4_1) |" in text


def test_a_licence_that_was_not_found_is_said_to_be_unknown(tmp_path):
    base = passport().base.model_copy(update={"licence": None})
    text = card(tmp_path, passport(source={"name": "mine"}).model_copy(update={"base": base}))
    assert read_head(text)["license"] == "unknown"
    assert "| licence of the base model | not known: " in text
    assert "| mine | not known | not noted |" in text


def test_a_licence_with_a_name_has_it_in_head_and_text(tmp_path):
    licence = Licence(id="other", name="acme-research", link="https://acme.org/licence", found="README.md")
    text = card(tmp_path, passport(licence=licence))
    head = read_head(text)
    assert [head[key] for key in ("license", "license_name", "license_link")] == [
        "other",
        "acme-research",
        "https://acme.org/licence",
    ]
    assert licence_text(licence) == "acme-research (https://acme.org/licence), as README.md says"
    assert len(HUB_LICENCES) == 81


def test_no_difference_is_said_among_the_limits(tmp_path):
    one = passport()
    one.difference["accuracy"].update(value=0.01, low=-0.02, high=0.04)
    said = "- Accuracy: the interval of its difference holds 0, so it is not shown that anything changed."
    assert said in card(tmp_path, one)
    assert said not in card(tmp_path, passport())


def test_a_card_that_a_person_changed_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("peftkit.adapter.card.read_passport", lambda folder: passport())
    path = tmp_path / "README.md"
    assert renew_card(tmp_path) == path.read_text(encoding="utf-8")
    renew_card(tmp_path)  # peftkit's own may go
    path.write_text(path.read_text(encoding="utf-8").replace("## Task", "## My task"), encoding="utf-8")
    with pytest.raises(OutputError, match=r"was changed since; pass --force to write over it"):
        renew_card(tmp_path)
    assert "## My task" in path.read_text(encoding="utf-8")
    renew_card(tmp_path, force=True)
    assert "## Task" in path.read_text(encoding="utf-8")


def test_a_passport_without_what_a_card_needs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "peftkit.adapter.card.read_passport", lambda folder: passport().model_copy(update={"before": {}})
    )
    with pytest.raises(AdapterError, match=r"does not say what a card needs \(UndefinedError: .*'accuracy'\); fetch"):
        renew_card(tmp_path)
    assert not (tmp_path / "README.md").exists()


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


def elements(text):
    """Return the HTML elements that a reader of Markdown makes of a card, in order."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return re.findall(r"<(/?\w+|!--)", html)


def kind(line):
    """Tell what Markdown takes a line for by how it begins."""
    found = re.match(r" {0,3}(#{1,6} |```|~~~|[-*_=]{3,}|[-+*] |\d+[.)] |> |\| ?)", line)
    return found[1] if found else None


def test_a_card_without_an_evaluation_has_no_table_of_metrics(tmp_path):
    text = card(tmp_path, passport().model_copy(update={"before": {}, "after": {}, "difference": {}, "metrics": {}}))
    assert "| metric" not in text
    assert "Nothing was measured." in text
    assert "model-index" not in read_head(text)


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
