"""What the documents say is so: the README's tables, the launcher file, the Makefile."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from serve_app.errors import STATUS
from serve_app.settings import Settings
from tests.lib.recordings import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
LAUNCHER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_lists_every_setting_with_its_sentence(name: str) -> None:
    rows = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert rows[0].endswith(f"| {Settings.model_fields[name].description} |")
    default = Settings.model_fields[name].default
    if isinstance(default, int | float | str) and default != "":
        assert f"`{default:g}`" if isinstance(default, float) else f"`{default}`" in rows[0]


def test_the_readme_knows_no_other_codes() -> None:
    said = {word.strip("`,.") for word in README.split("`error`:")[1].split("What may pass")[0].split()}
    assert said - {""} <= set(STATUS)


def test_the_launcher_file_is_valid() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(LAUNCHER, schema)


def test_the_launcher_file_has_a_head_cpu_and_gpu_workers() -> None:
    kinds = LAUNCHER["available_node_types"]
    assert set(kinds) == {"head", "cpu_worker", "gpu_worker"}
    assert kinds["gpu_worker"]["resources"]["GPU"] >= 1
    assert "GPU" not in kinds["cpu_worker"]["resources"]


def test_the_launcher_file_sets_what_there_is_to_set() -> None:
    words = " ".join(LAUNCHER["head_setup_commands"]).split()
    given = dict(word.removeprefix("MURMUR_").lower().split("=", 1) for word in words if word.startswith("MURMUR_"))
    assert set(given) <= set(Settings.model_fields)
    Settings.model_validate(given)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    assert all("==" in line for line in pins)
    assert {name.partition("[")[0].lower() for name in wanted} <= pinned


def test_make_without_a_target_helps() -> None:
    said = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "serve", "test", "lint", "bench", "setup"):
        assert f"make {target}" in said
