"""Settings from the environment: defaults, parsing, validation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.storage.artifacts import Artifacts
from serve_app.settings import Settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's own settings."""
    for name in [name for name in os.environ if name.startswith(("MURMUR_", "XDG_"))]:
        monkeypatch.delenv(name)


def settings(**values: Any) -> Settings:
    """Read the settings."""
    return Settings(**values)


def test_the_defaults_stay_on_this_machine() -> None:
    default = settings()
    assert default.host == "127.0.0.1"
    assert default.models == ("base",)
    assert default.fetch_allow == ()
    assert (default.redis_url, default.ray_address, default.storage_uri) == ("", "", "")
    assert (default.max_audio_s, default.max_upload_bytes) == (86_400, 2 << 30)


@pytest.mark.parametrize(
    ("name", "value", "field", "parsed"),
    [
        ("MURMUR_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("MURMUR_PORT", "9000", "port", 9000),
        ("MURMUR_DATA_DIR", "/srv/murmur", "data_dir", Path("/srv/murmur")),
        ("MURMUR_MODELS", "base, tiny.en ,,base", "models", ("base", "tiny.en")),
        ("MURMUR_FETCH_ALLOW", "nas.local, 10.0.0.0/8,cam:8080,", "fetch_allow", ("nas.local", "10.0.0.0/8", "cam:8080")),
        ("MURMUR_FETCH_ALLOW", "", "fetch_allow", ()),
        ("MURMUR_ENGINE", "fake", "engine", "fake"),
        ("MURMUR_MAX_AUDIO_S", "1.5", "max_audio_s", 1.5),
        ("murmur_batch_size", "7", "batch_size", 7),
        ("MURMUR_SUMMARY_PROMPTS", '{"a": "{transcript}"}', "summary_prompts", {"a": "{transcript}"}),
    ],
)
def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, parsed: object) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(settings(), field) == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MURMUR_PORT", "0"),
        ("MURMUR_PORT", "65536"),
        ("MURMUR_PORT", "http"),
        ("MURMUR_MODELS", ""),
        ("MURMUR_MODELS", " , "),
        ("MURMUR_FETCH_ALLOW", "10.0.0.0/33"),
        ("MURMUR_FETCH_ALLOW", "nas.local,fd00::/129"),
        ("MURMUR_FETCH_ALLOW", "http://nas.local/"),
        ("MURMUR_ENGINE", "other"),
        ("MURMUR_DEVICE", "tpu"),
        ("MURMUR_BATCH_SIZE", "-1"),
        ("MURMUR_MAX_UPLOAD_BYTES", "-1"),
        ("MURMUR_LEASE_S", "inf"),
        ("MURMUR_MAX_AUDIO_S", "nan"),
        ("MURMUR_WEBHOOK_RETRIES_S", "5,-1"),
        ("MURMUR_WEBHOOK_RETRIES_S", "inf"),
        ("MURMUR_RESULT_TTL_S", "0"),
        ("MURMUR_SUMMARY_PROMPTS", "{"),
        ("MURMUR_SUMMARY_PROMPTS", "brief"),
    ],
)
def test_an_invalid_value_is_refused_and_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        settings()
    assert [error["loc"][0] for error in refused.value.errors()] == [name.removeprefix("MURMUR_").lower()]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example/",
        "app.example",
        "https://",
        "https://App.example",
        "null",
        "https://a.b/c",
        "https://a:x",
        "https://u:p@a.b",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        settings(cors_origins=f"https://good.example,{origin}")


@pytest.mark.parametrize("stage", ["ingress", "runner", "ingestion", "transcoder", "transcriber"])
def test_no_more_replicas_at_least_than_at_most(stage: str) -> None:
    with pytest.raises(ValidationError, match=f"{stage}_min_replicas"):
        settings(**{f"{stage}_min_replicas": 4, f"{stage}_max_replicas": 3})
    assert settings(transcoder_min_replicas=4).transcoder_max_replicas == 0  # derived from the machine


def test_origins_are_exact_or_any() -> None:
    names = ("https://app.example", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abc")
    assert settings(cors_origins=",".join(names)).cors_origins == names
    assert settings(cors_origins="*").cors_origins == ("*",)


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_has_a_sentence(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_directories_follow_the_xdg_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert (settings().data_dir, settings().cache_dir) == (tmp_path / "data/murmur", tmp_path / "cache/murmur")


def test_directories_are_in_the_home_directory_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (settings().data_dir, settings().cache_dir) == (tmp_path / ".local/share/murmur", tmp_path / ".cache/murmur")


@pytest.mark.parametrize("name", ["data", "my data", "50%", "größe", "a#b?c"])
def test_artifacts_go_to_the_data_directory(tmp_path: Path, name: str) -> None:
    Artifacts(settings(data_dir=tmp_path / name).storage).put("jobs/j1/source", b"sound")
    assert (tmp_path / name / "artifacts/jobs/j1/source").read_bytes() == b"sound"


def test_a_relative_data_directory_is_below_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(data_dir=Path("here")).storage == (tmp_path / "here/artifacts").as_uri()


def test_artifacts_go_to_the_configured_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_STORAGE_URI", "s3://bucket/folder")
    assert settings().storage == "s3://bucket/folder"


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        settings().port = 1
