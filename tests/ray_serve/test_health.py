"""Health checks of the deployments: Serve calls them by name."""

from __future__ import annotations

import pytest

from serve_app.ray_serve.replicas import (
    IngestionReplica,
    IngressReplica,
    RunnerReplica,
    TranscoderReplica,
    TranscriberReplica,
)


@pytest.mark.parametrize("replica", [IngestionReplica, IngressReplica, RunnerReplica, TranscoderReplica, TranscriberReplica])
def test_every_replica_has_a_health_check(replica: type) -> None:
    assert callable(getattr(replica, "check_health", None))
