"""Environment of Ray: variables, scheduling policy, supported release."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

RAY_ENVIRONMENT = {
    # A node that is not part of a cluster is known as 127.0.0.1, and Ray's own servers then listen on loopback only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Loopback is open to every user of the machine, and Ray runs any code it is sent: require a token.
    "RAY_AUTH_MODE": "token",
    # Usage statistics would be sent to Ray's makers.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Serve's own lines stay in Ray's log files; standard error belongs to `murmur up`.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Both default to 0.1 s, which cost an idle service a quarter of a core.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
    # Yield to other programs; a Transcoder adds to it (default 0; 19 is the lowest priority).
    "RAY_worker_niceness": "5",
    # numpy's threads would compete with the decoders for cores, and a fork for ffmpeg while they run can deadlock.
    "OPENBLAS_NUM_THREADS": "1",
    # Messages between actors are small or a piece of an upload: send them inline, not through shared memory.
    "RAY_max_direct_call_object_size": str(1 << 20),
    # Back-pressure on uploads has to be installed in each proxy process.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.ray_serve.patches:pace_proxy",
    # A replica that reserves no GPU still sees the cards: MURMUR_DEVICE decides, not an empty CUDA_VISIBLE_DEVICES.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A call that Ray retries is no error yet; the one that fails in the end is logged.
    "RAY_enable_output_error_log_if_still_retry": "0",
}
SUPPORTED_RAY = "2.60"


class UnsupportedRay(Exception):
    """A private part of Ray is missing or behaves differently."""

    @classmethod
    def because(cls, reason: str) -> UnsupportedRay:
        return cls(f"Ray {version('ray')} cannot be used: {reason}; install Ray {SUPPORTED_RAY} (`make setup`)")


@contextmanager
def batch_scheduled() -> Iterator[None]:
    """Start processes under SCHED_BATCH, so that Ray's 100 Hz wake-ups do not preempt the decoder."""
    # Child processes inherit the policy of the thread that starts them. On two cores it saves a long file 3 to 4 %.
    changed = _switch_policy("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if changed:
            _switch_policy("SCHED_BATCH", "SCHED_OTHER")


def _switch_policy(before: str, after: str) -> bool:
    """False where the system has no such policies or forbids it."""
    try:
        if os.sched_getscheduler(0) != getattr(os, before):
            return False
        os.sched_setscheduler(0, getattr(os, after), os.sched_param(0))
    except (AttributeError, OSError):
        return False
    return True
