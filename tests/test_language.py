"""House style, held by machine: docstrings, identifiers, sizes of files and functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.recordings import ROOT

PRODUCT = ("batching", "deployments", "serve_app")
EVERYTHING = (*PRODUCT, "benchmarks", "tests")
RIDDLES = re.compile(r"^(What|Who|Where|Whoever|Whom|The same)\b")
BANNED = {"told", "heard", "wanted", "given", "asked", "placed", "apart", "spoken"}
DOCSTRING_WORDS_PER_100_LINES = 60
LONGEST_FILE, LONGEST_FUNCTION = 300, 50

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def files(packages: tuple[str, ...], *suffixes: str) -> list[Path]:
    """Source files of packages, relative to the root."""
    found = (path for package in packages for path in sorted((ROOT / package).rglob("*")) if path.suffix in suffixes)
    return [path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts]


def tree(path: Path) -> ast.Module:
    """A file, parsed."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, those below constants included."""
    for node in ast.walk(tree(path)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value.strip()


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that a file names: variables, parameters, functions, attributes, fields."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


@pytest.mark.parametrize("path", files(EVERYTHING, ".py"), ids=str)
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    assert not [f"{path}:{line} {text[:60]}" for line, text in docstrings(path) if RIDDLES.match(text)]


@pytest.mark.parametrize("path", files(EVERYTHING, ".py"), ids=str)
def test_no_identifier_is_a_riddle(path: Path) -> None:
    assert not [f"{path}:{line} {name}" for line, name in identifiers(path) if name.strip("_") in BANNED]


@pytest.mark.parametrize("package", PRODUCT)
def test_docstrings_are_short(package: str) -> None:
    paths = files((package,), ".py")
    lines = sum((ROOT / path).read_text(encoding="utf-8").count("\n") for path in paths)
    words = sum(len(text.split()) for path in paths for _, text in docstrings(path))
    assert 100 * words / lines <= DOCSTRING_WORDS_PER_100_LINES


@pytest.mark.parametrize("path", files(PRODUCT, ".py", ".lua"), ids=str)
def test_a_file_is_one_noun(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8").count("\n") < LONGEST_FILE


@pytest.mark.parametrize("path", files(PRODUCT, ".py"), ids=str)
def test_a_function_is_one_thought(path: Path) -> None:
    functions = (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    sizes = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert not {name: size for name, size in sizes.items() if size >= LONGEST_FUNCTION}
