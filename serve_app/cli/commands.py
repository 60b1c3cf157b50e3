"""The `murmur` command line: up, transcribe, jobs, doctor, keys."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import httpx
import orjson
import typer
from rich.console import Console
from rich.table import Table

from serve_app.cli.client import Client, ServerError
from serve_app.cli.configuration import fail, settings_with
from serve_app.cli.keys import keys
from serve_app.cli.transcribe import FORMAT_NAMES, transcribe_all
from serve_app.local.preflight import StartError
from serve_app.local.service import Interrupted, LocalService
from serve_app.logs import log_file

if TYPE_CHECKING:
    from serve_app.cli.doctor import Finding

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Self-hosted transcription."
)
jobs = typer.Typer(no_args_is_help=True, help="Jobs of a running server.")
app.add_typer(jobs, name="jobs")
app.add_typer(keys, name="keys")

notes = Console(stderr=True, highlight=False)
DEFAULT_SERVER = "http://127.0.0.1:8080"
# Options of `up`; `doctor` checks a start with them.
Host = Annotated[str | None, typer.Option(help="Address to serve on.")]
Port = Annotated[int | None, typer.Option(help="Port to serve on.")]
DataDir = Annotated[Path | None, typer.Option(help="Directory for jobs and artifacts.")]
RedisUrl = Annotated[str | None, typer.Option(help="Redis to use instead of an embedded Valkey.")]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster to join instead of starting one.")]
AllowAnonymous = Annotated[
    bool | None,
    typer.Option("--allow-anonymous", help="Serve beyond loopback without API keys; MURMUR_ALLOWED_HOSTS names the hosts."),
]
Server = Annotated[str, typer.Option(envvar="MURMUR_SERVER", help="The server's address.")]


@app.command()
def up(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    ray_address: RayAddress = None,
    allow_anonymous: AllowAnonymous = None,
    adopt_storage: Annotated[
        bool, typer.Option("--adopt-storage", help="Pair this Redis with this storage, whatever they belonged to.")
    ] = False,
) -> None:
    """Start the service on this machine and serve until Ctrl-C."""
    settings = settings_with(
        host=host,
        port=port,
        data_dir=data_dir,
        redis_url=redis_url,
        ray_address=ray_address,
        allow_anonymous=allow_anonymous,
    )
    os.umask(0o077)  # recordings, transcripts and logs are nobody else's
    out = private_stdout()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    notes.print("starting: checks, Valkey, Ray, models (20 to 40 s) ...")
    try:
        with LocalService(settings, stopping, adopt_storage=adopt_storage) as service:
            if service.dashboard_url:
                notes.print(f"dashboard {service.dashboard_url} (its token: ~/.ray/auth_token)", soft_wrap=True)
            notes.print(f"log {log_file(settings.data_dir)}", soft_wrap=True)
            out.write(f"ready {service.url}\n")
            out.flush()
            stopping.wait()
            notes.print("stopping ...")
        notes.print("stopped")
    except StartError as error:
        raise fail(str(error), 2) from None
    except Interrupted:
        raise typer.Exit(130) from None


def private_stdout() -> TextIO:
    """Standard output for this command only; everything else that is printed, Ray's lines too, goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


@app.command()
def transcribe(
    sources: Annotated[list[str], typer.Argument(metavar="FILE_OR_URL...", help="Recordings: files, or http(s) URLs.")],
    server: Annotated[
        str | None, typer.Option(envvar="MURMUR_SERVER", help="Server to use; without one, a temporary one is started.")
    ] = None,
    format: Annotated[str | None, typer.Option(help=f"Print the transcript as {FORMAT_NAMES} when it is complete.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write a file for each recording into this directory.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to use.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the recordings; detected by default.")] = None,
    task: Annotated[str | None, typer.Option(help="transcribe, or translate (into English).")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that the recording might follow on from.")] = None,
    hotwords: Annotated[str | None, typer.Option(help="Words that are likely to occur.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Word timestamps, in the json format.")] = False,
) -> None:
    """Transcribe recordings and print segments as they arrive. Exit status 1 if any recording failed."""
    options: dict[str, Any] = {
        "model": model,
        "language": language,
        "task": task,
        "prompt": prompt,
        "hotwords": hotwords,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if words:
        options["word_timestamps"] = True
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed = transcribe_all(sources, server, options, private_stdout(), format=format, output=output)
    except (StartError, ServerError, ValueError, OSError) as error:
        raise fail(str(error), 2) from None
    except (KeyboardInterrupt, Interrupted):
        sys.stderr.write("murmur: interrupted\n")
        sys.stderr.flush()
        os._exit(130)  # threads that wait for a server would keep the process alive
    raise typer.Exit(1 if failed else 0)


@jobs.command("list")
def list_jobs(
    server: Server = DEFAULT_SERVER,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the newest jobs."""
    table = Table("id", "phase", "created", "audio", "done", "model", "source", "error", box=None, pad_edge=False)
    with _client(server) as client:
        for job in client.newest(limit):
            if as_json:
                _print_json(job)
                continue
            length, done = job["duration_s"], job["progress"]["audio_done_s"]
            table.add_row(
                job["id"],
                job["phase"],
                job["created_at"][:19].replace("T", " "),
                "" if length is None else f"{length:.1f} s",
                "" if not length else f"{min(done / length, 1):.0%}",
                job["model"],
                job["metadata"].get("name", ""),
                job["error"]["message"] if job["error"] else "",
            )
    if not as_json:
        Console(width=None if sys.stdout.isatty() else 300).print(table)


@jobs.command()
def show(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Print a job as JSON."""
    with _client(server) as client:
        Console(highlight=False, soft_wrap=True).print_json(data=client.get(job_id))


@jobs.command()
def watch(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Print a job's events as they arrive, one JSON object per line. Exit status 1 unless it completes."""
    phase = ""
    with _client(server) as client:
        for kind, data in client.events(job_id):
            sys.stdout.write(f"{kind} {orjson.dumps(data).decode()}\n")
            sys.stdout.flush()
            phase = data.get("phase", phase) if kind == "done" else phase
    raise typer.Exit(0 if phase == "completed" else 1)


@jobs.command()
def cancel(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Cancel a job."""
    with _client(server) as client:
        phase = client.cancel(job_id)["phase"]
    _say(f"{job_id}: cancelled" if phase == "cancelled" else f"{job_id}: cancel requested, it is {phase} and stops soon")


@jobs.command()
def retry(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Queue a failed job again."""
    with _client(server) as client:
        client.retry(job_id)
    _say(f"{job_id}: queued again")


@jobs.command()
def delete(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Delete an ended job with its results and audio."""
    with _client(server) as client:
        client.delete(job_id)
    _say(f"{job_id}: deleted")


@app.command()
def doctor(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    ray_address: RayAddress = None,
    allow_anonymous: AllowAnonymous = None,
) -> None:
    """Check that a start would succeed, and say how to fix what fails. Starts nothing. Exit status 1 if a check fails."""
    from serve_app.cli.doctor import examine, examine_installation

    passed = [_report(finding) for finding in examine_installation()]
    if all(passed):
        settings = settings_with(
            host=host,
            port=port,
            data_dir=data_dir,
            redis_url=redis_url,
            ray_address=ray_address,
            allow_anonymous=allow_anonymous,
        )
        passed += [_report(finding) for finding in examine(settings)]
    raise typer.Exit(0 if all(passed) else 1)


def _report(finding: Finding) -> bool:
    _say(f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.detail}")
    return finding.ok


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _print_json(data: Any) -> None:
    sys.stdout.write(orjson.dumps(data).decode() + "\n")


@contextmanager
def _client(server: str) -> Iterator[Client]:
    """Client whose errors end the command with status 1."""
    try:
        with Client(server) as client:
            yield client
    except (ServerError, httpx.InvalidURL) as error:
        raise fail(str(error), 1) from None
