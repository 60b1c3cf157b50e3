"""Documents match the code: README, docs, the launcher file, the Makefile."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from pydantic_settings import BaseSettings

from serve_app.dialects import DIALECTS
from serve_app.dialects.native.wire import Options
from serve_app.errors import STATUS
from serve_app.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
API = (ROOT / "docs/api.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = (
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "tests/samples/README.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LAUNCHER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
VENDORS = [dialect.settings for dialect in DIALECTS if dialect.settings]
ALL_SETTINGS: tuple[type[BaseSettings], ...] = (Settings, *VENDORS)
FIELDS = {name: field for settings in ALL_SETTINGS for name, field in settings.model_fields.items()}


def test_no_two_settings_have_one_name() -> None:
    assert len(FIELDS) == sum(len(settings.model_fields) for settings in ALL_SETTINGS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_one_row_with_its_description(name: str) -> None:
    rows = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert rows[0].endswith(f"| {FIELDS[name].description} |")
    default = FIELDS[name].default
    if isinstance(default, int | float | str) and default != "":
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert f"`{shown}`" in rows[0]


def test_no_row_describes_a_setting_that_does_not_exist() -> None:
    assert set(re.findall(r"^\| `([a-z_0-9]+)` \|", SETTINGS, re.MULTILINE)) == set(FIELDS)


def test_the_api_page_lists_every_error_code_with_its_status() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", API, re.MULTILINE)
    assert {code: int(status) for code, status in rows} == STATUS


def test_the_readme_lists_every_option_once() -> None:
    table = README.split("### Options")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)) == sorted(Options.model_fields)


def test_the_readme_is_shorter_than_250_lines() -> None:
    assert len(README.splitlines()) < 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = prose(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", README + GUIDE + "".join(map(prose, PAGES))))
    assert {"demo", "serve", "test", "lint", "bench", "help"} <= named
    assert named <= targets


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_launcher_file_is_valid() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(LAUNCHER, schema)


def test_the_launcher_file_has_a_head_cpu_and_gpu_workers() -> None:
    kinds = LAUNCHER["available_node_types"]
    assert set(kinds) == {"head", "cpu_worker", "gpu_worker"}
    assert kinds["gpu_worker"]["resources"]["GPU"] >= 1
    assert "GPU" not in kinds["cpu_worker"]["resources"]


def test_the_launcher_file_sets_existing_settings_to_valid_values() -> None:
    words = " ".join(LAUNCHER["head_setup_commands"]).split()
    values = dict(word.removeprefix("MURMUR_").lower().split("=", 1) for word in words if word.startswith("MURMUR_"))
    assert set(values) <= set(Settings.model_fields)
    Settings.model_validate(values)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    assert all("==" in line for line in pins)
    names = {re.split(r"[\[<>=]", name)[0].lower() for name in required}
    assert names <= pinned
    assert all(re.search(r"[<=]\d|==", name) for name in required), "a dependency without an upper bound"


def test_make_without_a_target_prints_help() -> None:
    output = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "serve", "test", "test-fast", "lint", "format", "bench", "setup"):
        assert f"make {target}" in output
