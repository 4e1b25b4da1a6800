"""The templates of HTML pages that share the style of the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def page_template(package: str, name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """Return a template, which may include the parts that stand beside the report's; a name it lacks is an error.

    Args:
        package: Where it is.
        name: Its file.
        filters: How it writes values.
    """
    import jinja2

    places = [jinja2.PackageLoader(one, ".") for one in (package, "peftkit.evaluate")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(places),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
