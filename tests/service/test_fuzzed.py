"""The OpenAPI document and the API agree: no request gets a 5xx, or a response that the document does not describe."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.service.conftest import Served

EXAMPLES = 30  # for each operation in each phase
MIN_REQUESTS = 2000
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
TIMEOUT_S = 400.0


async def test_every_response_is_as_documented(served: Served, tmp_path: Path) -> None:
    command = ("-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--checks", CHECKS, "--warnings", "off")
    # Without Runners and models it is not ready, and says so by a 503.
    bounds = (
        "--exclude-path",
        "/readyz",
        "--max-examples",
        str(EXAMPLES),
        "--seed",
        "7",
        "--phases",
        "examples,coverage,fuzzing",
        "--no-shrink",
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *bounds,
        "--continue-on-failure",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output[-6000:]
    found = re.search(r"([\d,]+) generated", output) or re.search(r"([\d,]+) test cases", output)
    assert found, output[-2000:]
    assert int(found[1].replace(",", "")) >= MIN_REQUESTS
