"""The rated snippets of C. J. Hutto and E. Gilbert (VADER, ICWSM 2014) that several recipes learn from."""

from collections.abc import Iterator


def snippets(source: str) -> Iterator[tuple[float, str]]:
    """Read one of the four sets, each snippet with its mean rating by 20 people, from -4 to 4.

    Args:
        source: movieReviewSnippets, amazonReviewSnippets, nytEditorialSnippets or tweets.
    """
    from peftkit.model.assets import ASSETS, read_member

    ratings = read_member(
        ASSETS["vader-ratings"],
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        f"hutto_ICWSM_2014/{source}_GroundTruth.txt",
    )
    for line in ratings.decode("utf-8").rstrip().split("\n"):
        _, rating, text = line.split("\t")
        yield float(rating), text.strip()
