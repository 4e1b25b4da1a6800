"""What the hub asks of a card's head, as its documentation and its own messages say it."""

import re

import yaml
from huggingface_hub import ModelCard

from peftkit.model.licence import HUB_LICENCES

# How the hub and huggingface_hub find the head of a card.
HEAD = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")
REPO = re.compile(r"[\w.-]+/[\w.-]+")


def read_head(text: str) -> dict:
    """Return the head of a card that the hub accepts."""
    head = yaml.safe_load(HEAD.match(text)[2])
    read = ModelCard(text, ignore_metadata_errors=False)
    assert read.data.to_dict() == {**head, "tags": list(dict.fromkeys(head["tags"]))}
    assert read.text == text[HEAD.match(text).end() :]
    assert head["license"] in HUB_LICENCES | {"unknown", "other"}
    assert ("license_name" in head) == (head["license"] == "other")
    assert re.fullmatch(r"[a-z0-9.-]{1,64}", head.get("license_name", "x"))
    assert re.fullmatch(r"https?://\S+", head.get("license_link", "https://x"))
    for repo in [head.get("base_model", "a/b"), *head.get("datasets", ())]:
        assert REPO.fullmatch(repo)
    assert ("base_model_relation" in head) == ("base_model" in head)
    assert head["pipeline_tag"] in ("text-generation", "text-classification")
    assert all(isinstance(tag, str) and tag for tag in head["tags"])
    assert all(re.fullmatch(r"[a-z]{2,3}|code|multilingual", one) for one in head.get("language", ()))
    for model in head.get("model-index", ()):
        assert isinstance(model["name"], str)
        for result in model["results"]:
            assert result["task"]["type"] == head["pipeline_tag"]
            assert result["dataset"]["type"]
            assert result["dataset"]["name"]
            for one in result["metrics"]:
                assert one["type"]
                assert isinstance(one["value"], float)
    return head
