"""Client of the command line: a server that restarts is waited for, and nothing is submitted twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.harness import free_port
from serve_app.cli import client as client_module
from serve_app.cli.client import Client, ServerError

JOB = b'{"id": "job-1", "phase": "queued"}'
STARTING = (503, b'{"detail": "The service is starting or stopping: try again."}')
RESET = (0, b"")
SEGMENT = b'id: 1-0\nevent: segment\ndata: {"id": 0}\n\n'
DONE = b'id: 2-0\nevent: done\ndata: {"phase": "completed"}\n\n'
Answer = tuple[int, bytes]


class Server:
    """Answers requests with a script; a status of 0 breaks the connection off."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.headers: dict[str, str] = {}
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                script.answer(self)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of the base class

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((f"{request.command} {request.path}", headers, body))
        status, content = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if status == 0:
            request.close_connection = True
            return
        kind = "text/event-stream" if content.startswith(b"id:") else "application/json"
        request.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **self.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(client_module, "SHORTEST_PAUSE_S", 0.001)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE_S", 0.01)
    server = Server()
    yield server
    server.stop()


def test_a_restarting_server_is_waited_for(server: Server) -> None:
    server.script = [STARTING, STARTING, (502, b"<html>"), RESET, (200, JOB)]
    with Client(server.url) as client:
        client._answered = True
        assert client.get("job-1")["id"] == "job-1"
    assert len(server.requests) == 5


@pytest.mark.parametrize("trouble", [[STARTING], [RESET], [STARTING, RESET]])
def test_a_submission_that_is_sent_again_carries_its_key_and_its_whole_body(
    server: Server, tmp_path: Path, trouble: list[Answer]
) -> None:
    (tmp_path / "talk.mp3").write_bytes(b"audio " * 1000)
    with Client(server.url) as client:
        client._answered = True
        server.script = [*trouble, (202, JOB)]
        client.submit_file(tmp_path / "talk.mp3", {"language": "de"}, lambda _: None)
        server.script = [*trouble, (202, JOB)]
        client.submit_url("https://example.org/a.mp3", {})
    half = len(server.requests) // 2
    for tries in (server.requests[:half], server.requests[half:]):
        assert len({headers["idempotency-key"] for _, headers, _ in tries}) == 1
    assert all(body.count(b"audio ") == 1000 for _, _, body in server.requests[:half])
    assert len({headers["idempotency-key"] for _, headers, _ in server.requests}) == 2


def test_a_key_that_a_broken_request_still_holds_is_waited_for(server: Server) -> None:
    server.headers = {"Retry-After": "1"}
    server.script = [(409, b'{"detail": "still under way"}'), (202, JOB)]
    with Client(server.url) as client:
        assert client.submit_url("https://example.org/a.mp3", {})["id"] == "job-1"


def test_a_lost_stream_is_resumed_after_its_last_event(server: Server) -> None:
    server.script = [(200, SEGMENT), STARTING, RESET, (200, DONE)]
    with Client(server.url) as client:
        assert [kind for kind, _ in client.events("job-1")] == ["segment", "done"]
    assert [headers.get("last-event-id") for _, headers, _ in server.requests] == [None, "1-0", "1-0", "1-0"]


def test_a_server_that_stays_away_is_given_up_with_its_own_words(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE_S", 0.05)
    server.script = [STARTING]
    with Client(server.url) as client:
        with pytest.raises(ServerError, match="starting or stopping"):
            client.get("job-1")
        with pytest.raises(ServerError, match="starting or stopping"):
            list(client.events("job-1"))
        client._answered = True
        server.script = [RESET]
        with pytest.raises(ServerError, match="went away"):
            client.get("job-1")


def test_a_server_that_never_answered_is_given_up_at_once() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(ServerError, match="start one with `murmur up`"):
            client.get("job-1")
        with pytest.raises(ServerError, match="start one with `murmur up`"):
            list(client.events("job-1"))


def test_an_action_that_may_have_arrived_is_not_sent_again(server: Server) -> None:
    server.script = [RESET]
    with Client(server.url) as client:
        client._answered = True
        with pytest.raises(ServerError, match="went away"):
            client.retry("job-1")
    assert len(server.requests) == 1


def test_a_refusal_is_no_trouble(server: Server) -> None:
    server.script = [(404, b'{"detail": "There is no such job."}')]
    with Client(server.url) as client, pytest.raises(ServerError, match="no such job"):
        client.get("job-1")
    assert len(server.requests) == 1
