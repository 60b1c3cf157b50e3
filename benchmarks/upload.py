"""What does an upload of gigabytes cost in memory, and where is one that is too large cut off?

    python -m benchmarks.upload [--gib 2]

A multipart form and a raw body of `--gib` GiB, to a fresh service that takes no more; peaks of resident memory of every
process are compared with those after an upload of a megabyte. Then a body half as large again, which is to be answered with
413 as it crosses the limit. Exit status 1 if a process grows by 64 MiB or more, or the answer comes late.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from benchmarks.lib.harness import local_service, say, table
from benchmarks.memory import watched

GIB, MIB = 1 << 30, 1 << 20
PIECE = bytes(1 << 18)
MOST_GROWTH = 64 * MIB
LATE = 64 * MIB
"""What may be on its way, in the buffers of sockets and of the proxy, when the limit is crossed."""
BOUNDARY = "murmur-benchmark"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="zeros"\r\n\r\n'.encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def pieces(size: int, form: bool) -> Iterator[bytes]:
    """A body around or of so many zeros."""
    if form:
        yield HEAD
    for _ in range(size // len(PIECE)):
        yield PIECE
    if form:
        yield TAIL


def send(url: str, size: int, form: bool) -> tuple[int, int, float]:
    """POST it, listening meanwhile. The answer's status, the bytes sent before it came, the seconds it all took."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "application/octet-stream"
    length = size + (len(HEAD) + len(TAIL) if form else 0)
    began, sent = time.perf_counter(), 0
    with socket.create_connection((host, port), 60) as line:
        line.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {kind}\r\n".encode())
        line.sendall(f"Content-Length: {length}\r\nConnection: close\r\n\r\n".encode())
        try:
            for piece in pieces(size, form):
                if select.select([line], [], [], 0)[0]:
                    break
                line.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        status = int(line.recv(1 << 16).split()[1])
    return status, sent, time.perf_counter() - began


def grown(size: int) -> list[tuple[str, str, str, str]]:
    """Rows of every process' growth, largest first."""
    rows = []
    with local_service(engine="fake", models="fake", max_upload_bytes=size) as running:
        for form in (False, True):
            send(running.url, MIB, form)
        with watched() as before:
            time.sleep(3)
        with watched() as after:
            for form in (False, True):
                status, _, took_s = send(running.url, size, form)
                say(f"{'form' if form else 'raw body'} of {size / GIB:g} GiB: {status} after {took_s:.1f} s")
                if status != 202:
                    raise RuntimeError(f"answered {status}")
        names = before.bytes.keys() & after.bytes.keys()
        for name in sorted(names, key=lambda n: before.bytes[n] - after.bytes[n]):
            growth = after.bytes[name] - before.bytes[name]
            told = f"{growth / MIB:.0f} MiB"
            rows.append((name, f"{before.bytes[name] / MIB:.0f} MiB", told, "yes" if growth < MOST_GROWTH else "NO"))
        for form in (False, True):
            status, sent, _ = send(running.url, size + size // 2, form)
            well = status == 413 and sent <= size + LATE
            what = f"{'form' if form else 'raw body'} of {1.5 * size / GIB:g} GiB"
            rows.append((what, f"{status}", f"after {sent / GIB:.2f} GiB", "yes" if well else "NO"))
    return rows


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    size = int(parser.parse_args().gib * GIB)
    rows = grown(size)
    table(f"Uploads of {size / GIB:g} GiB", ("", "before", "growth", "goal reached"), rows)
    return int(any(row[-1] == "NO" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
