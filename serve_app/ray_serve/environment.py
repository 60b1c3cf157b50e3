"""How Ray is tuned where it shares one machine with the models: what it reads when it starts, and how it is scheduled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

RAY_ENVIRONMENT = {
    # A node that takes itself for a lone one is known as 127.0.0.1, and every server of Ray then listens there only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Ten times a second each is what Ray does by default; idle, the service took a quarter of a core for it.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
    # Polite to what else the machine does, and with room below for those who are to be more so.
    "RAY_worker_niceness": "5",
    # numpy's own threads would take cores from a model's lanes, and a process that forks ffmpeg while they work hangs.
    "OPENBLAS_NUM_THREADS": "1",
    # What crosses between actors is small, or a piece of an upload: none of it needs to go through shared memory.
    "RAY_max_direct_call_object_size": str(1 << 20),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.ray_serve.patches:pace_proxy",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_output_error_log_if_still_retry": "0",
}


@contextmanager
def batch_scheduled() -> Iterator[None]:
    """What is started meanwhile does not preempt when it wakes (SCHED_BATCH, which processes inherit from the thread that
    starts them). Every worker of Ray wakes a hundred times a second to see whether it shall end, and each time took a core
    from a model: on two cores a long file took 3 to 4 % longer by it."""
    changed = _scheduled("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if changed:
            _scheduled("SCHED_BATCH", "SCHED_OTHER")


def _scheduled(before: str, after: str) -> bool:
    """Move this thread from one policy to another. False where it had neither: not every system has them, and a sandbox may
    forbid it."""
    try:
        if os.sched_getscheduler(0) != getattr(os, before):
            return False
        os.sched_setscheduler(0, getattr(os, after), os.sched_param(0))
    except (AttributeError, OSError):
        return False
    return True
