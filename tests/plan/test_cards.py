"""Cards are found by their names, parts of them, and their size."""

import pytest

from peftkit.errors import ConfigError
from peftkit.plan.cards import CARDS, GIB, find_card


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("a100-80gb", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("Tesla T4", "T4"),
        ("l40s", "L40S"),
        ("NVIDIA L4", "L4"),
    ],
)
def test_a_card_is_found_by_its_name(word, name) -> None:
    assert find_card(word).name == name


@pytest.mark.parametrize(("word", "size"), [("24GB", 24), ("24", 24), ("16 GiB", 16), ("141gb", 141), ("7.5g", 7.5)])
def test_a_card_is_found_by_its_size(word, size) -> None:
    card = find_card(word)
    assert 0.95 * size * GIB < card.memory < size * GIB
    assert card.tflops > 0
    assert card.bandwidth > 0


def test_a_card_that_is_not_known_is_named() -> None:
    said = "--gpu 'RTX 4095': no card of that name is known; give a size, such as 24GB, or a name: did you mean 'RTX"
    with pytest.raises(ConfigError, match=said):
        find_card("RTX 4095")
    with pytest.raises(ConfigError, match=r"or a name: there are RTX 2080 Ti, .*, V100 32GB$"):
        find_card("foo")


@pytest.mark.parametrize("word", ["0GB", "0", "1000GB", "513 gib"])
def test_a_size_that_no_card_has_is_refused(word) -> None:
    with pytest.raises(ConfigError, match=f"^--gpu '{word}': a card's size is more than 0 and at most 512 GB"):
        find_card(word)


def test_the_table_is_plausible() -> None:
    assert len({card.name for card in CARDS}) == len(CARDS)
    for card in CARDS:
        assert find_card(card.name) is card
        assert 7 * GIB < card.memory < 150 * GIB
        assert 20 < card.tflops < 1000
        assert 2.5e11 < card.bandwidth < 5e12
