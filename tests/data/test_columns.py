import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data.columns import choose_columns
from peftkit.errors import ConfigError, DataError, PeftkitError

WANTED = {"text": ("sentence", "review", "body"), "label": ("sentiment", "category", "class")}


@pytest.mark.parametrize(
    ("available", "given", "chosen"),
    [
        (["text", "label"], {}, ["text", "label"]),
        (["review", "Sentiment", "id"], {}, ["review", "Sentiment"]),
        (["Text", "text", "label"], {}, ["text", "label"]),
        (["TEXT", "review", "label"], {}, ["TEXT", "label"]),
        (["bo_dy", "Cate gory"], {}, ["bo_dy", "Cate gory"]),
        (["text", "label", "notes"], {"text": "notes"}, ["notes", "label"]),
        (["review", "class", "category"], {"label": "class"}, ["review", "class"]),
        (["review", "sentence", "label"], {"label": "review"}, ["sentence", "review"]),
    ],
)
def test_chooses(available, given, chosen):
    assert list(choose_columns(available, WANTED, given).items()) == list(zip(WANTED, chosen, strict=True))


def test_a_column_exactly_named_for_another_purpose_is_no_alias_candidate():
    assert choose_columns(["text", "q"], {"prompt": ("text", "q"), "text": ()}, {}) == {"prompt": "q", "text": "text"}


@pytest.mark.parametrize(
    ("available", "given", "message"),
    [
        (
            ["review", "sentence", "label"],
            {},
            "column 'text' can be 'review' or 'sentence' of the file; choose with data.columns.text=review",
        ),
        (
            ["title", "label"],
            {},
            "no column of the file is known as 'text': it has 'title', 'label'; "
            "name the right one with data.columns.text=<column>",
        ),
        (
            ["Reviews", "label"],
            {"text": "review"},
            "data.columns.text=review: no such column in the file, which has 'Reviews', 'label'; "
            "did you mean 'Reviews'?",
        ),
        (
            ["a", "label"],
            {"text": "a", "label": "a"},
            "column 'a' of the file would be both 'text' and 'label'; "
            "set data.columns.text and data.columns.label to different columns",
        ),
        (
            [],
            {},
            "no column of the file is known as 'text': it has none; name the right one with data.columns.text=<column>",
        ),
    ],
)
def test_refuses(available, given, message):
    with pytest.raises(DataError) as caught:
        choose_columns(available, WANTED, given)
    assert str(caught.value) == message


def test_refuses_a_key_that_the_recipe_does_not_use():
    with pytest.raises(ConfigError, match=r"data\.columns\.txet sets a column .* did you mean 'text'\?"):
        choose_columns(["text", "label"], WANTED, {"txet": "text"})


def test_lists_only_the_first_of_many_columns():
    with pytest.raises(DataError, match=r"'c19' and 980 more"):
        choose_columns([f"c{index}" for index in range(1000)], WANTED, {})


NAMES = st.sampled_from(["text", "Text", "te xt", "review", "label", "LABEL", "class", "sentiment", "", "é"])


@settings(max_examples=150, deadline=None)
@given(st.lists(NAMES, unique=True), st.dictionaries(NAMES, NAMES, max_size=2))
def test_gives_distinct_columns_of_the_file_or_a_declared_error(available, overrides):
    try:
        chosen = choose_columns(available, WANTED, overrides)
    except PeftkitError:
        return
    assert set(chosen) == set(WANTED)
    assert set(chosen.values()) <= set(available)
    assert len(set(chosen.values())) == len(chosen)
    assert overrides.items() <= chosen.items()
