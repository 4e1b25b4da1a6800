"""Planted bugs still fit the code; that each is seen is the row `planted`."""

import pytest

from peftkit.errors import ConfigError
from peftkit.resolve import resolve

from .planted import BUGS


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_can_be_planted(name):
    compile(BUGS[name].applied(), BUGS[name].file, "exec")


def test_yaml_makes_no_objects(tmp_path):
    file = tmp_path / "config.yaml"
    made = tmp_path / "made"
    file.write_text(f"recipe: sentiment\npreset: !!python/object/apply:os.mkdir ['{made}']\n")
    with pytest.raises(ConfigError):
        resolve(str(file))
    assert not made.exists()
