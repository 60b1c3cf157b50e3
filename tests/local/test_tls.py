"""TLS settings: both files, readable and of one pair; the options of Serve, and a server that uses them."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from serve_app.cli.client import Client, ServerError
from serve_app.local.preflight import StartError
from serve_app.local.service import LocalService
from serve_app.local.tls import check_tls
from serve_app.settings import Settings


def certificate(folder: Path, name: str = "localhost", password: bytes = b"") -> tuple[Path, Path]:
    """Self-signed certificate and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return cert_file, key_file


def settings(**values: Any) -> Settings:
    return Settings(**values)


def test_both_files_are_needed(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    for values in ({"tls_cert": cert}, {"tls_key": key}, {"tls_cert": cert, "tls_key": ""}):
        with pytest.raises(ValidationError, match="both tls_cert and tls_key"):
            settings(**values)


def test_without_them_the_service_speaks_plain_http() -> None:
    plain = settings(tls_cert="", tls_key="")
    assert check_tls(plain) == {}
    assert LocalService(plain).url.startswith("http://")


def test_the_pair_becomes_options_of_serve(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    secure = settings(tls_cert=cert, tls_key=key)
    assert check_tls(secure) == {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    assert LocalService(secure).url.startswith("https://")


def test_files_that_cannot_be_used_end_the_start(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    _, other = certificate(tmp_path, "other.example")
    _, encrypted = certificate(tmp_path, "encrypted.example", b"secret")
    with pytest.raises(StartError, match="MURMUR_TLS_CERT cannot be read"):
        check_tls(settings(tls_cert=tmp_path / "none", tls_key=key))
    for wrong in (other, encrypted, cert):
        with pytest.raises(StartError, match="cannot be used"):
            check_tls(settings(tls_cert=cert, tls_key=wrong))


async def test_the_command_line_trusts_the_authorities_of_ssl_cert_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path)

    async def app(scope: Any, _: Any, send: Any) -> None:
        body = b'{"id": "j"}'
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", ssl_certfile=cert, ssl_keyfile=key)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    url = f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}"

    def read() -> str:
        with Client(url) as client:
            return str(client.get("j")["id"])

    with pytest.raises(ServerError, match="certificate"):
        await asyncio.to_thread(read)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert await asyncio.to_thread(read) == "j"
    server.should_exit = True
    await serving


def test_the_request_of_the_service_to_itself_accepts_any_name() -> None:
    from serve_app.local.tls import unverified

    assert unverified().verify_mode is ssl.CERT_NONE
