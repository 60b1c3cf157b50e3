"""Names of deployments."""

from __future__ import annotations

from serve_app.main import transcriber_names


def test_one_model_needs_no_name() -> None:
    assert transcriber_names(["a/b"]) == ["Transcriber"]


def test_models_with_like_names_have_deployments_of_their_own() -> None:
    names = transcriber_names(["a/b", "a-b", "a-b-2", "c"])
    assert names[0] == "Transcriber-a-b"
    assert len(set(names)) == 4
    assert not any("/" in name for name in names)
