"""`murmur transcribe`: concurrent jobs with progress bars; segments are printed as they arrive."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from serve_app.cli.client import Client, ServerError
from serve_app.cli.configuration import settings_with
from serve_app.formats import FORMATS, clock
from serve_app.local.service import LocalService

FORMAT_NAMES = ", ".join(FORMATS)
CONCURRENCY = 4
# Settings of a temporary server, in place of those of a shared one.
TEMPORARY: dict[str, Any] = {"redis_url": "", "ray_address": "", "dashboard": False, "api_keys_required": False}
TEMPORARY |= dict.fromkeys(("jwt_issuer", "jwt_secret", "jwt_jwks_url", "tls_cert", "tls_key"), "")


@dataclass(frozen=True, slots=True)
class Recording:
    """File or URL, and its unique name for display and output files."""

    source: str
    name: str

    @property
    def is_url(self) -> bool:
        return self.source.startswith(("http://", "https://"))


def transcribe_all(
    sources: list[str],
    server: str | None,
    options: dict[str, Any],
    out: TextIO,
    *,
    format: str | None,
    output: Path | None,
) -> int:
    """Transcribe `sources` and return how many failed. Raises ValueError, StartError, ServerError.
    Transcripts in `format`, or else live segments, go to `out`; everything else to standard error."""
    if format is not None and format not in FORMATS:
        raise ValueError(f"there is no format {format!r}: use {FORMAT_NAMES}")
    recordings = [Recording(source, name) for source, name in zip(sources, _names(sources), strict=True)]
    if output:
        output.mkdir(parents=True, exist_ok=True)
    screen = Console(stderr=True, highlight=False)
    with _server(server, options.get("model"), screen) as url, Client(url) as client, _bars(screen) as bars:
        run = _Run(client, bars, options, out, format, output, several=len(recordings) > 1)
        pool = ThreadPoolExecutor(CONCURRENCY)
        try:
            for document in pool.map(run.transcribe, recordings):
                out.write(document)
                out.flush()
        finally:
            # After Ctrl-C, do not wait for running uploads.
            pool.shutdown(wait=False, cancel_futures=True)
        return run.failed


class _Run:
    def __init__(
        self,
        client: Client,
        bars: Progress,
        options: dict[str, Any],
        out: TextIO,
        format: str | None,
        output: Path | None,
        *,
        several: bool,
    ) -> None:
        self._client = client
        self._bars = bars
        self._options = options
        self._out = out
        self._format = format
        self._output = output
        self._several = several
        self.failed = 0

    def transcribe(self, recording: Recording) -> str:
        bar = self._bars.add_task(recording.name, total=None, step="waiting")
        try:
            return self._transcribe(recording, bar)
        except (ServerError, OSError) as error:
            self.failed += 1
            message = f"{error.strerror}: {recording.source}" if isinstance(error, OSError) else str(error)
            self._bars.update(bar, step="failed")
            self._bars.console.print(f"murmur: {recording.name}: {message}", markup=False, soft_wrap=True)
            return ""

    def _transcribe(self, recording: Recording, bar: TaskID) -> str:
        job_id = self._submit(recording, bar)["id"]
        for kind, data in self._client.events(job_id):
            if kind == "phase":
                self._bars.update(bar, step=data["phase"])
            elif kind == "progress":
                self._bars.update(bar, completed=data["audio_done_s"], total=data["audio_total_s"])
            elif kind == "segment":
                self._show(recording, data)
            elif data["phase"] != "completed":
                raise ServerError(data.get("error", {}).get("message", f"The job was {data['phase']}."))
        total = self._client.get(job_id)["duration_s"]
        self._bars.update(bar, completed=total, total=total)
        return self._document(recording, job_id)

    def _submit(self, recording: Recording, bar: TaskID) -> dict[str, Any]:
        options = {**self._options, "metadata": {"name": recording.name}}
        if recording.is_url:
            return self._client.submit_url(recording.source, options)
        path = Path(recording.source)
        size = path.stat().st_size

        def show_upload(sent: int) -> None:
            self._bars.update(bar, completed=sent, total=size, step="sending")

        job = self._client.submit_file(path, options, show_upload)
        self._bars.update(bar, completed=0, total=None, step="queued")
        return job

    def _show(self, recording: Recording, segment: dict[str, Any]) -> None:
        line = f"[{clock(segment['start'])} --> {clock(segment['end'])}] {segment['text']}"
        line = f"{recording.name}: {line}" if self._several else line
        if self._format is not None and not self._output:
            self._bars.console.print(line, markup=False, soft_wrap=True)
        else:
            self._out.write(line + "\n")
            self._out.flush()

    def _document(self, recording: Recording, job_id: str) -> str:
        if self._output:
            chosen = self._format or "text"
            target = self._output / f"{recording.name}.{FORMATS[chosen].suffix}"
            target.write_text(self._client.transcript(job_id, chosen), encoding="utf-8")
        elif self._format:
            return self._client.transcript(job_id, self._format)
        return ""


def _names(sources: list[str]) -> list[str]:
    """Unique name for each source: its stem, else its file name, else numbered."""
    paths = [Path(urlsplit(s).path if "://" in s else s) for s in sources]
    names: list[str] = []
    for path in paths:
        stem = path.stem or "recording"
        clash = sum(p.stem == path.stem for p in paths) > 1
        name = path.name if clash else stem
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _bars(screen: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeRemainingColumn())
    return Progress(*columns, console=screen, disable=not screen.is_terminal)


@contextmanager
def _server(url: str | None, model: str | None, screen: Console) -> Iterator[str]:
    """URL of the given server, or of a temporary one."""
    if url:
        yield url
        return
    screen.print("no --server given: starting a temporary one (20 to 40 s) ...")
    with tempfile.TemporaryDirectory(prefix="murmur-once-") as data_dir:
        settings = settings_with(data_dir=Path(data_dir), port=_any_port(), models=model or None, **TEMPORARY)
        with LocalService(settings) as service:
            screen.print(f"ready {service.url}, process {os.getpid()}")
            yield service.url


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
