"""No coroutine calls the storage itself: only StorageThreads or another thread does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.recordings import ROOT

FILES = sorted(path.relative_to(ROOT) for package in ("serve_app", "deployments") for path in (ROOT / package).rglob("*.py"))
STORAGE = {"artifacts", "_artifacts", "writer"}


def name_of(node: ast.expr) -> str:
    """Last name of an expression such as `self._artifacts`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def in_threads(call: ast.Call) -> bool:
    """Whether a call hands its arguments to threads, as in `threads.run(...)` or `asyncio.to_thread(...)`."""
    return isinstance(call.func, ast.Attribute) and (name_of(call.func.value) == "threads" or call.func.attr == "to_thread")


def blocking(node: ast.AST, awaited: bool = False) -> Iterator[ast.Call]:
    """Calls of the storage in the body of a coroutine, those of nested functions left out."""
    if isinstance(node, ast.Call):
        if in_threads(node):
            return
        of_storage = isinstance(node.func, ast.Attribute) and name_of(node.func.value) in STORAGE
        takes_storage = any(name_of(argument) in STORAGE for argument in (*node.args, *(k.value for k in node.keywords)))
        makes_object = name_of(node.func)[:1].isupper()
        if of_storage or (takes_storage and not awaited and not makes_object):
            yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef):
            yield from blocking(child, awaited=isinstance(node, ast.Await))


def coroutines(source: str) -> Iterator[ast.AsyncFunctionDef]:
    """All coroutines of a file."""
    yield from (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_coroutine_calls_the_storage_itself(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert not [f"{path}:{c.lineno} {ast.unparse(c)}" for f in coroutines(source) for s in f.body for c in blocking(s)]


@pytest.mark.parametrize(
    ("line", "blocks"),
    [
        ("size = self._artifacts.size(key)", True),
        ("with artifacts.writer(key) as writer: pass", True),
        ("writer.write(chunk)", True),
        ("transcript = read_transcript(self._artifacts, key)", True),
        ("for chunk in artifacts.chunks(key): pass", True),
        ("size = await threads.run(self._artifacts.size, key)", False),
        ("size = await asyncio.to_thread(self._artifacts.size, key)", False),
        ("async with self._artifacts.threads.entered(self._artifacts.writer(key)) as writer: pass", False),
        ("language = await write_transcript(self._artifacts, key)", False),
        ("copy = Mp3Copy(self._artifacts, key)", False),
        ("work = lambda: artifacts.size(key)", False),
    ],
)
def test_the_rule_tells_blocking_lines_from_others(line: str, blocks: bool) -> None:
    (coroutine,) = coroutines(f"async def work():\n    {line}\n")
    assert bool([call for statement in coroutine.body for call in blocking(statement)]) is blocks
