"""Load generator: concurrent keep-alive connections that repeat one POST; prints counts and latencies as JSON.

python -m benchmarks.lib.post_load URL BODY CONCURRENCY SECONDS
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from urllib.parse import urlsplit

import orjson


async def post(url: str, body: bytes, until: float) -> list[float]:
    """Send requests over one connection until a time of `perf_counter`; latencies in ms."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    times_ms = []
    while (began := time.perf_counter()) < until:
        writer.write(request)
        response = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(response.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        times_ms.append((time.perf_counter() - began) * 1000)
        if not response.startswith(b"http/1.1 202"):
            raise RuntimeError(response.decode())
    writer.close()
    return times_ms


async def load(url: str, body: bytes, concurrency: int, seconds: float) -> dict[str, object]:
    began = time.perf_counter()
    connections = await asyncio.gather(*(post(url, body, began + seconds) for _ in range(concurrency)))
    times_ms = [time_ms for times in connections for time_ms in times]
    return {"count": len(times_ms), "seconds": time.perf_counter() - began, "times_ms": times_ms}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("body", help="a JSON object")
    parser.add_argument("concurrency", type=int)
    parser.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    result = asyncio.run(load(arguments.url, arguments.body.encode(), arguments.concurrency, arguments.seconds))
    sys.stdout.buffer.write(orjson.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
