"""A client that costs little: the same POST again and again, by some at once, over connections that are kept.

    python -m benchmarks.lib.post_load URL BODY CONCURRENCY SECONDS

Prints a JSON object: `count` answers, all of them 202, in `seconds`, and `times_ms` of each.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from urllib.parse import urlsplit

import orjson


async def post(url: str, body: bytes, until: float) -> list[float]:
    """One connection's requests up to a moment of the monotonic clock: milliseconds of each."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    times = []
    while (began := time.perf_counter()) < until:
        writer.write(request)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answer.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        times.append((time.perf_counter() - began) * 1000)
        if not answer.startswith(b"http/1.1 202"):
            raise RuntimeError(answer.decode())
    writer.close()
    return times


async def load(url: str, body: bytes, concurrency: int, seconds: float) -> dict[str, object]:
    """All connections' requests."""
    began = time.perf_counter()
    found = await asyncio.gather(*(post(url, body, began + seconds) for _ in range(concurrency)))
    times = [t for each in found for t in each]
    return {"count": len(times), "seconds": time.perf_counter() - began, "times_ms": times}


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("body", help="a JSON object")
    parser.add_argument("concurrency", type=int)
    parser.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    found = asyncio.run(load(arguments.url, arguments.body.encode(), arguments.concurrency, arguments.seconds))
    sys.stdout.buffer.write(orjson.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
