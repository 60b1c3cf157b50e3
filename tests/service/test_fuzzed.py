"""The OpenAPI document and the API agree: whatever is sent, no 5xx, and no answer that the document does not name."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.service.conftest import Served

EXAMPLES, LEAST = 30, 2000
"""For each operation, in each phase; and how many requests that must come to."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
BOUND_S = 400.0


async def test_no_request_is_answered_but_as_documented(served: Served, tmp_path: Path) -> None:
    command = ("-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--checks", CHECKS, "--warnings", "off")
    bounds = ("--max-examples", str(EXAMPLES), "--seed", "7", "--phases", "examples,coverage,fuzzing", "--no-shrink")
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
        async with asyncio.timeout(BOUND_S):
            told = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told[-6000:]
    found = re.search(r"([\d,]+) generated", told) or re.search(r"([\d,]+) test cases", told)
    assert found, told[-2000:]
    assert int(found[1].replace(",", "")) >= LEAST
