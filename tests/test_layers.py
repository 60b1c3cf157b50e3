"""The arrows of the design: serve_app ▶ deployments ▶ batching, and the order of packages inside serve_app."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.recordings import ROOT

ARROW = ("serve_app", "deployments", "batching")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ARROW
    for path in sorted((ROOT / package).rglob("*.py"))
}
# What a package must not import.
FORBIDDEN = {
    "serve_app.models": ("serve_app", "deployments"),
    "serve_app.store": ("serve_app", "deployments"),
    "serve_app.jobs": ("serve_app.http", "serve_app.dialects", "serve_app.runner", "serve_app.ingress", "ray"),
    "serve_app.runner": ("serve_app.http", "serve_app.dialects", "serve_app.ingress", "ray"),
    "serve_app.http": ("serve_app.dialects", "serve_app.runner", "serve_app.ingress", "ray"),
    "serve_app.dialects": ("serve_app.store", "serve_app.runner", "serve_app.ingress", "ray", "redis"),
    "serve_app.ingress": ("serve_app.runner", "ray"),
}
# Exceptions to that.
ALLOWED = {
    "serve_app.models": ("serve_app.models",),
    "serve_app.store": ("serve_app.store", "serve_app.models", "serve_app.errors"),
}
# Nothing below imports these.
TOP = ("serve_app.cli", "serve_app.local", "serve_app.main", "serve_app.ray_serve")
RAY = ("serve_app.main", "serve_app.ray_serve")
SHARED_FORMATS = ("serve_app.dialects.base", "serve_app.dialects.openai_format")
ROOT_FILES = {"__init__.py", "main.py", "ingress.py", "settings.py", "errors.py", "formats.py", "logs.py"}
FOLDERS = {"cli", "local", "ray_serve", "dialects", "http", "jobs", "runner", "store", "models"}


def imports(module: str) -> set[str]:
    """Modules of the project that `module` imports, at the top or inside a function."""
    return {name for name in named(module) if name in MODULES}


def named(module: str, *, top_level: bool = False) -> Iterator[str]:
    """Everything that `module` imports, by its full name."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of `packages` or below one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def vendor(module: str) -> str:
    """File or folder in dialects that a module belongs to."""
    return ".".join(module.split(".")[:3])


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_left(module: str) -> None:
    left = ARROW[: ARROW.index(module.split(".")[0])]
    assert not [name for name in imports(module) if name.split(".")[0] in left]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("serve_app.")])
def test_the_packages_of_serve_app_keep_their_order(module: str) -> None:
    found = set(named(module))
    for package, forbidden in FORBIDDEN.items():
        if inside(module, (package,)):
            allowed = ALLOWED.get(package, ())
            assert not [name for name in found if inside(name, forbidden) and not inside(name, allowed)]
    if not inside(module, TOP):
        assert not [name for name in found if inside(name, TOP)]


def test_only_the_graph_and_its_replicas_import_ray_at_the_top() -> None:
    importing = {name for name in MODULES if any(inside(i, ("ray",)) for i in named(name, top_level=True))}
    assert all(inside(name, RAY) for name in importing), importing
    lazily = {name for name in MODULES if any(inside(i, ("ray",)) for i in named(name))} - importing
    assert all(inside(name, ("serve_app.local",)) for name in lazily), lazily


def test_no_imports_form_a_cycle() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in finished:
            for name in sorted(imports(module)):
                visit(name, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


def test_no_two_packages_import_each_other() -> None:
    def package(module: str) -> str:
        return module.rpartition(".")[0] if MODULES[module].name != "__init__.py" else module

    arrows = {(package(m), package(i)) for m in MODULES for i in imports(m) if package(m) != package(i)}
    inner = {(a, b) for a, b in arrows if not a.startswith(f"{b}.") and not b.startswith(f"{a}.")}
    assert not {(a, b) for a, b in inner if (b, a) in inner}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("batching")])
def test_the_arithmetic_knows_no_ray_no_redis_no_clock_no_files(module: str) -> None:
    outside = {name.split(".")[0] for name in named(module)}
    assert not outside & {"ray", "redis", "time", "datetime", "os", "pathlib", "socket", "subprocess", "random"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("serve_app.dialects.")])
def test_a_dialect_imports_no_other_dialect(module: str) -> None:
    shared = (*SHARED_FORMATS, vendor(module))
    others = [name for name in imports(module) if inside(name, ("serve_app.dialects",)) and not inside(name, shared)]
    assert not [name for name in others if name != "serve_app.dialects"]


def test_only_one_file_wraps_deployments() -> None:
    wrapping = [name for name, path in MODULES.items() if "serve.deployment(" in path.read_text(encoding="utf-8")]
    assert wrapping == ["serve_app.main"]


def test_only_the_store_talks_to_redis() -> None:
    clients = {name for name in MODULES if any(inside(i, ("redis",)) for i in named(name))}
    probing = {f"serve_app.local.{name}" for name in ("installation", "redis_checks", "valkey")}  # before a start
    assert all(inside(name, ("serve_app.store",)) for name in clients - probing), clients


def test_the_folder_listing_is_the_design() -> None:
    entries = [path for path in (ROOT / "serve_app").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in entries if path.is_file()} == ROOT_FILES
    assert {path.name for path in entries if path.is_dir()} == FOLDERS


def test_every_package_is_shipped() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {".".join(Path(p).relative_to(ROOT).parent.parts) for p in MODULES.values() if p.name == "__init__.py"}
    assert set(shipped) == packages
