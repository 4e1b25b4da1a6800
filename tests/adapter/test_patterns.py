"""Patterns of strangers: those that people write are taken, and none that is taken searches for long."""

import re

import pytest

from peftkit.adapter.patterns import MOST_WAYS, require_quick

from .hostile_settings import CATASTROPHIC

# Steps of `re` on names that nearly match are bounded by these.
USUAL = (
    "q_proj",
    "^model.layers.1.self_attn.q_proj",
    r".*\.(q_proj|v_proj)",
    r"^(?!.*visual).*(?:q_proj|k_proj|v_proj|o_proj).*",
    r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|up|down|gate)_proj",
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    r"^(language_model|aligner)(?!.*(lm_head|output|emb)).*",
    "transformer.h.[0-9]+.attn.c_attn",
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|up_proj).*?)",
    r".*",
)


@pytest.mark.parametrize("pattern", USUAL)
def test_what_people_write_is_taken(pattern):
    assert 1 <= require_quick(pattern) <= MOST_WAYS


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_what_searches_for_ages_is_refused(pattern):
    with pytest.raises(ValueError, match="very long"):
        require_quick(pattern)


@pytest.mark.parametrize("pattern", ["(", "[a", "a{9999999999}", "(?P<x>a)(?P<x>b)", "*"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="no pattern"):
        require_quick(pattern)


def steps(pattern: str, text: str) -> int:
    """Count the ways in which `.*` and `.*?` of a pattern can share a text, by trying all of them."""
    parts = pattern.split(".*")
    found = 0

    def place(number: int, start: int) -> None:
        nonlocal found
        found += 1
        if number < len(parts):
            for match in re.finditer(f"(?={re.escape(parts[number])})", text[start:]):
                place(number + 1, start + match.start() + len(parts[number]))

    place(1, len(parts[0]))
    return found


@pytest.mark.parametrize("pattern", ["x.*", "x.*a.*", "x.*.*", "x.*.*.*", "x.*ab.*a.*"])
def test_the_bound_holds_for_the_worst_name(pattern):
    assert steps(pattern, "x" + "a" * 60) <= 10 * require_quick(pattern)
