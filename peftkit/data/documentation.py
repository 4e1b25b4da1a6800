"""The documentation of installed packages, read from their source files without importing them.

Rows that need no download and no account: whoever has peftkit has its dependencies, and their documentation strings are
prose that people wrote, each with a first line that sums it up (PEP 257).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from peftkit.errors import DataError

_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

LEAST_WORDS = 40
"""A body with fewer words has nothing to sum up."""
MOST_WORDS = 250
"""A body is cut after so many words."""

_NO_DOCUMENTATION = {"test", "tests", "testing", "_vendor", "externals"}
"""Folders whose modules are tests, or copies of other packages."""
_PROSE = {"", "Description", "Extended Summary", "Notes", "Note", "Warnings", "Details"}
"""Sections of numpy's style that are prose; the others are tables, references and examples."""
_UNDERLINE = re.compile(r"([-=~^])\1{2,}\s*")
_TITLE = re.compile(r"[A-Z][\w ]*:\s*")  # of a section in Google's style, whose content is indented
_NO_PROSE = re.compile(r"\s|>>>|\.\. |:\w+|[|+=*-]{3}|\||\+-|@|</?[A-Z]")
_SIGNATURE = re.compile(r"[\w.]+\(.*")
_ROLE = re.compile(r":[\w:]+:`[~!]?([^`<]*?)(?: <[^`]*)?`")
_CITATION = re.compile(r" ?\[\d+\]_")


@dataclass(frozen=True)
class Documented:
    """A module, class or function with its documentation.

    Attributes:
        name: Qualified name, such as `numpy.linalg.norm` with the names of the modules that hold its source.
        text: The whole documentation string, without its indentation.
    """

    name: str
    text: str

    @cached_property
    def summary(self) -> str:
        """The first paragraph as one line, a signature before it left out."""
        return self._prose[0] if self._prose else ""

    @cached_property
    def body(self) -> str:
        """The prose after the summary, at most `MOST_WORDS` words: no tables of parameters, examples or directives.

        Empty where it has fewer than `LEAST_WORDS` words.
        """
        kept: list[str] = []
        room = MOST_WORDS
        for paragraph in self._prose[1:]:
            words = paragraph.split()[:room]
            room -= len(words)
            kept += [" ".join(words)] if words else []
        return "\n\n".join(kept) if MOST_WORDS - room >= LEAST_WORDS else ""

    @cached_property
    def _prose(self) -> list[str]:
        return list(_paragraphs(self.text))


def documented(packages: Sequence[str]) -> Iterator[Documented]:
    """Give what the source files of installed packages document, each text once.

    Args:
        packages: Names as they are imported, each of a package or of a package inside one (`transformers.generation`).

    Yields:
        Package by package, in the order of the files' paths and of the lines in them.

    Raises:
        DataError: A package is not installed.
    """
    given: set[str] = set()
    for package in packages:
        root = _folder(package)
        for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix()):
            folders = file.relative_to(root).parts[:-1]
            if _NO_DOCUMENTATION.isdisjoint(folders) and not file.name.startswith(("test_", "conftest")):
                module = ".".join((package, *folders, file.stem)).removesuffix(".__init__")
                for one in _of_module(file, module):
                    if one.text not in given:
                        given.add(one.text)
                        yield one


def _folder(package: str) -> Path:
    top, *inside = package.split(".")
    spec = find_spec(top)  # of a package inside another it would import the outer one
    if spec is None or spec.origin is None or not (folder := Path(spec.origin).parent.joinpath(*inside)).is_dir():
        raise DataError(f"the package '{package}', whose documentation is read, is not installed; install it with pip")
    return folder


def _of_module(file: Path, module: str) -> Iterator[Documented]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a template, or written for another version of Python
        return
    yield from _of_node(tree, module)


def _of_node(node: _Node, name: str) -> Iterator[Documented]:
    text = ast.get_docstring(node)
    if text and text.strip():
        yield Documented(name, text.strip())
    if isinstance(node, ast.Module | ast.ClassDef):  # a function inside a function is nobody's to call
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _of_node(child, f"{name}.{child.name}")


def _paragraphs(text: str) -> Iterator[str]:
    section = ""
    fenced = False
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        fences = sum(line.lstrip().startswith("```") for line in lines)
        if fenced or fences:
            fenced ^= bool(fences % 2)
            continue
        if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1]):
            section, lines = lines[0].strip(), lines[2:]
        elif _TITLE.fullmatch(lines[0]):
            lines = lines[1:]
        line = " ".join(" ".join(lines).split())
        is_prose = lines and not _NO_PROSE.match(lines[0]) and not _SIGNATURE.fullmatch(lines[0])
        if section in _PROSE and is_prose and line:
            yield _CITATION.sub("", _ROLE.sub(r"`\1`", line)).replace("``", "`")
