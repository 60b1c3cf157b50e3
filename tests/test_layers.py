"""Imports go to the right only: serve_app, then deployments, then batching."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

ARROW = ("serve_app", "deployments", "batching")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ARROW
    for path in sorted((ROOT / package).rglob("*.py"))
}
DIALECTS = [name for name in MODULES if name.startswith("serve_app.dialects.") and not name.endswith(".base")]


def imports(module: str) -> set[str]:
    """The project's own modules that `module` names in an import, wherever it stands."""
    return {name for name in named(module) if name in MODULES}


def named(module: str) -> Iterator[str]:
    """Everything that `module` imports, by its full name."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_left(module: str) -> None:
    left = ARROW[: ARROW.index(module.split(".")[0])]
    assert not [name for name in imports(module) if name.split(".")[0] in left]


def test_no_imports_go_round() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in finished:
            for name in sorted(imports(module)):
                visit(name, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("batching")])
def test_the_arithmetic_knows_no_ray_no_redis_no_clock_no_files(module: str) -> None:
    outside = {name.split(".")[0] for name in named(module)}
    assert not outside & {"ray", "redis", "time", "datetime", "os", "pathlib", "socket", "subprocess", "random"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_knows_neither_its_siblings_nor_the_store_nor_ray_nor_an_engine(dialect: str) -> None:
    others = [name for name in DIALECTS if name != dialect]
    found = set(named(dialect))
    assert not found & {*others, "serve_app.jobs.store", "serve_app.main"}
    assert not [name for name in found if name.split(".")[0] in ("ray", "redis") or "engines" in name]


def test_only_the_root_wraps() -> None:
    wrapping = [name for name, path in MODULES.items() if "serve.deployment(" in path.read_text(encoding="utf-8")]
    assert wrapping == ["serve_app.main"]


def test_only_the_store_names_redis_keys() -> None:
    clients = {name for name in MODULES if any(i.split(".")[0] == "redis" for i in named(name))}
    asking = {"serve_app.doctor", "serve_app.preflight", "serve_app.valkey"}  # whether a server answers
    assert (
        clients == {"serve_app.jobs.store", "serve_app.jobs.outbox", "serve_app.keys", "serve_app.jobs.connection"} | asking
    )


def test_every_package_is_shipped() -> None:
    import tomllib

    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {".".join(Path(p).relative_to(ROOT).parent.parts) for p in MODULES.values() if p.name == "__init__.py"}
    assert set(shipped) == packages
