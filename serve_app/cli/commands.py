"""The command `murmur`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import httpx
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from serve_app.cli.client import Client, ServerError
from serve_app.cli.keys import keys
from serve_app.cli.transcribe import FORMAT_NAMES, transcribe_all
from serve_app.local.preflight import StartError
from serve_app.local.service import Interrupted, LocalService
from serve_app.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Transcription of your own."
)
jobs = typer.Typer(no_args_is_help=True, help="Jobs of a running server.")
app.add_typer(jobs, name="jobs")
app.add_typer(keys, name="keys")

notes = Console(stderr=True, highlight=False)
DEFAULT_SERVER = "http://127.0.0.1:8080"
Server = Annotated[str, typer.Option(envvar="MURMUR_SERVER", help="The server's address.")]


def fail(message: str, status: int) -> typer.Exit:
    """Say one line on standard error; the exit to raise."""
    sys.stderr.write(f"murmur: {message}\n")
    return typer.Exit(status)


def settings_with(**flags: Any) -> Settings:
    """Settings of the environment, with the flags that were given."""
    from serve_app.dialects import dialect_settings

    try:
        dialect_settings()  # checked here, so that a bad variable is named before anything is started
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"][:1])
        name = name if name.isupper() else f"MURMUR_{name.upper()}"
        raise fail(f"{name}: {first['msg']} (given: {first['input']!r})", 2) from None


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to serve on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to serve on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory for jobs and artifacts.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis to use instead of an embedded Valkey.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join instead of starting one.")] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="Serve beyond loopback without API keys.")
    ] = None,
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
    out = private_stdout()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    notes.print("starting: checks, Valkey, Ray, models (about 20 s) ...")
    try:
        with LocalService(settings, stopping) as service:
            if service.dashboard_url:
                notes.print(f"dashboard {service.dashboard_url} (its token: ~/.ray/auth_token)", soft_wrap=True)
            out.write(f"ready {service.url}\n")
            out.flush()
            stopping.wait()
            notes.print("stopping ...")
    except StartError as error:
        raise fail(str(error), 2) from None
    except Interrupted:
        raise typer.Exit(130) from None


def private_stdout() -> TextIO:
    """Standard output for us alone: Ray writes there whatever its nodes have to say, which now goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


@app.command()
def transcribe(
    sources: Annotated[list[str], typer.Argument(metavar="FILE_OR_URL...", help="Recordings: files, or http(s) URLs.")],
    server: Annotated[
        str | None, typer.Option(envvar="MURMUR_SERVER", help="Server to use; none starts one for now.")
    ] = None,
    format: Annotated[str | None, typer.Option(help=f"Print the transcript as {FORMAT_NAMES} when it is complete.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write a file for each recording into this directory.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to use.")] = None,
    language: Annotated[str | None, typer.Option(help="Language that is spoken; detected when not given.")] = None,
    task: Annotated[str | None, typer.Option(help="transcribe, or translate (into English).")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that the recording might follow on from.")] = None,
    hotwords: Annotated[str | None, typer.Option(help="Words that are likely to be heard.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Times of every word, in the json format.")] = False,
) -> None:
    """Transcribe recordings. Segments are shown as they come; the exit status is 1 if any recording failed."""
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
        os._exit(130)  # threads that still wait for a server would keep the process
    raise typer.Exit(1 if failed else 0)


@jobs.command("list")
def list_jobs(
    server: Server = DEFAULT_SERVER, limit: Annotated[int, typer.Option(min=1, help="How many, at most.")] = 20
) -> None:
    """The newest jobs."""
    table = Table("id", "phase", "created", "audio", "done", "model", "source", box=None, pad_edge=False)
    with _client(server) as client:
        for job in client.newest(limit):
            length, done = job["duration_s"], job["progress"]["audio_done_s"]
            table.add_row(
                job["id"],
                job["phase"],
                job["created_at"][:19].replace("T", " "),
                "" if length is None else f"{length:.1f} s",
                "" if not length else f"{min(done / length, 1):.0%}",
                job["model"],
                job["metadata"].get("name", ""),
            )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@jobs.command()
def show(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """A job, as JSON."""
    with _client(server) as client:
        Console(highlight=False, soft_wrap=True).print_json(data=client.get(job_id))


@jobs.command()
def watch(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """A job's events as they come, a JSON object a line; the exit status is 1 if it fails."""
    phase = ""
    with _client(server) as client:
        for kind, data in client.events(job_id):
            sys.stdout.write(f"{kind} {_json(data)}\n")
            sys.stdout.flush()
            phase = data.get("phase", phase) if kind == "done" else phase
    raise typer.Exit(0 if phase == "completed" else 1)


@jobs.command()
def cancel(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Cancel a job."""
    with _client(server) as client:
        client.cancel(job_id)


@jobs.command()
def retry(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Queue a failed job again."""
    with _client(server) as client:
        client.retry(job_id)


@jobs.command()
def delete(job_id: str, server: Server = DEFAULT_SERVER) -> None:
    """Delete an ended job with everything of it."""
    with _client(server) as client:
        client.delete(job_id)


@app.command()
def doctor() -> None:
    """Say what this installation has, what is wrong with it, and how to mend that."""
    from serve_app.cli.doctor import examine

    wrong = 0
    for finding in examine(settings_with()):
        wrong += not finding.ok
        sys.stdout.write(f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.told}\n")
    raise typer.Exit(1 if wrong else 0)


def _json(data: Any) -> str:
    import orjson

    return orjson.dumps(data).decode()


@contextmanager
def _client(server: str) -> Iterator[Client]:
    """A client whose errors end the command."""
    try:
        with Client(server) as client:
            yield client
    except (ServerError, httpx.InvalidURL) as error:
        raise fail(str(error), 1) from None
