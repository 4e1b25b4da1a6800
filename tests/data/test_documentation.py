"""Documentation is read from source files in a fixed order, without running them; of each the prose is told apart."""

import sys
from itertools import islice

import pytest

from peftkit.data.documentation import LEAST_WORDS, MOST_WORDS, Documented, documented
from peftkit.errors import DataError

PROSE = "The quay is long and old. " * 8
NUMPY = f"""depth(at, unit=None)

    Return the depth of water,
    where it was measured.

    {PROSE.strip()} See :func:`~harbour.wait` [1]_.

    .. deprecated:: 2
       Ask somebody.

    Parameters
    ----------
    at : str
        A place.

    Notes
    -----
    It falls with the tide.

    Examples
    --------
    >>> depth("quay")
    4
    """
GOOGLE = f"""Wait for high tide.

    {PROSE.strip()}

    Args:
        hours (`int`):
            How long.

    ```py
    wait(3)

    wait(4)
    ```

    It returns at once if the tide is high.
    """


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "harbour"
    files = {
        "__init__.py": '"""The harbour."""\nraise RuntimeError("it was imported")\n',
        "z.py": f'def depth(at, unit=None):\n    """{NUMPY}"""\n\n    def inner():\n        """Nobody calls it."""\n',
        "boats/tug.py": f'class Tug:\n    """A tug."""\n    async def wait(self):\n        """{GOOGLE}"""\n',
        "boats/again.py": '"""A tug."""\n',
        "boats/tests/test_tug.py": '"""A test."""\n',
        "broken.py": "def (:\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "harbour"


def test_each_text_once_in_the_order_of_files(package):
    found = {one.name: one for one in documented([package])}
    names = ["harbour", "harbour.boats.again", "harbour.boats.tug.Tug.wait", "harbour.z.depth"]
    assert list(found) == names
    assert [one.name for one in documented([f"{package}.boats", package])] == [names[1], names[2], names[0], names[3]]
    assert package not in sys.modules
    assert found["harbour.z.depth"].text.endswith('>>> depth("quay")\n4')


def test_summary_and_body_of_numpys_style(package):
    one = next(one for one in documented([package]) if one.name.endswith("depth"))
    assert one.summary == "Return the depth of water, where it was measured."
    assert one.body == f"{PROSE.strip()} See `harbour.wait`.\n\nIt falls with the tide."


def test_summary_and_body_of_googles_style(package):
    one = next(one for one in documented([package]) if one.name.endswith("wait"))
    assert one.summary == "Wait for high tide."
    assert one.body == f"{PROSE.strip()}\n\nIt returns at once if the tide is high."


def test_a_body_is_neither_short_nor_long():
    for words, kept in ((LEAST_WORDS - 1, 0), (LEAST_WORDS, LEAST_WORDS), (MOST_WORDS + 1, MOST_WORDS)):
        assert len(Documented("a", f"Sum.\n\n{'word ' * words}").body.split()) == kept
    assert Documented("a", "Parameters\n----------\nx : int").summary == ""


def test_a_package_that_is_not_here_is_named():
    for name in ("no_such_package", "numpy.no_such_part"):
        with pytest.raises(DataError, match=f"the package '{name}', whose documentation is read, is not installed"):
            list(documented([name]))


def test_the_packages_that_peftkit_needs_are_documented():
    first = list(islice(documented(["numpy"]), 300))
    assert [one.name for one in first] == [one.name for one in islice(documented(["numpy"]), 300)]
    assert len({one.text for one in first}) == 300
    assert sum(bool(one.body) for one in first) > 20
