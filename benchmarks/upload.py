"""Peak memory during uploads of gigabytes, and the bytes sent before an oversized body is refused. Exit status 1 if a goal
is missed.

    python -m benchmarks.upload [--gib 2]
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from benchmarks.lib.harness import echo, local_service, table
from benchmarks.memory import peak_monitor

GIB, MIB = 1 << 30, 1 << 20
CHUNK = bytes(1 << 18)
MAX_GROWTH = 64 * MIB
MAX_OVERRUN = 64 * MIB  # bytes in the buffers of sockets and proxy when the limit is crossed
BOUNDARY = "murmur-benchmark"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="zeros"\r\n\r\n'.encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def chunks(size: int, form: bool) -> Iterator[bytes]:
    """Body of `size` zeros, in a multipart form if `form`."""
    if form:
        yield HEAD
    for _ in range(size // len(CHUNK)):
        yield CHUNK
    if form:
        yield TAIL


def send(url: str, size: int, form: bool) -> tuple[int, int, float]:
    """POST a body until the response begins; its status, bytes sent, seconds taken."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "application/octet-stream"
    length = size + (len(HEAD) + len(TAIL) if form else 0)
    began, sent = time.perf_counter(), 0
    with socket.create_connection((host, port), 60) as line:
        line.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {kind}\r\n".encode())
        line.sendall(f"Content-Length: {length}\r\nConnection: close\r\n\r\n".encode())
        try:
            for chunk in chunks(size, form):
                if select.select([line], [], [], 0)[0]:
                    break
                line.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        status = int(line.recv(1 << 16).split()[1])
    return status, sent, time.perf_counter() - began


def measure(size: int) -> list[tuple[str, str, str, str]]:
    """Rows of the table."""
    rows = []
    with local_service(engine="fake", models="fake", max_upload_bytes=size) as running:
        for form in (False, True):
            send(running.url, MIB, form)
        with peak_monitor() as before:
            time.sleep(3)
        with peak_monitor() as after:
            for form in (False, True):
                status, _, took_s = send(running.url, size, form)
                echo(f"{'form' if form else 'raw body'} of {size / GIB:g} GiB: {status} after {took_s:.1f} s")
                if status != 202:
                    raise RuntimeError(f"the upload was answered with {status}")
        names = before.bytes.keys() & after.bytes.keys()
        for name in sorted(names, key=lambda n: before.bytes[n] - after.bytes[n]):
            growth = after.bytes[name] - before.bytes[name]
            goal = "yes" if growth < MAX_GROWTH else "NO"
            rows.append((name, f"{before.bytes[name] / MIB:.0f} MiB", f"{growth / MIB:.0f} MiB", goal))
        for form in (False, True):
            status, sent, _ = send(running.url, size + size // 2, form)
            refused = status == 413 and sent <= size + MAX_OVERRUN
            name = f"{'form' if form else 'raw body'} of {1.5 * size / GIB:g} GiB"
            rows.append((name, f"{status}", f"after {sent / GIB:.2f} GiB", "yes" if refused else "NO"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    size = int(parser.parse_args().gib * GIB)
    rows = measure(size)
    table(f"Uploads of {size / GIB:g} GiB", ("process", "before", "growth", "goal met"), rows)
    return int(any(row[-1] == "NO" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
