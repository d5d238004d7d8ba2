"""TLS contexts and SASL arguments from settings; the handshakes are real, with a server in this process."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from revoker.errors import BrokerUnreachable, SettingsError
from revoker.kafka import client_arguments, connected
from revoker.secured import TlsContext, certificate_doubt, security_arguments
from revoker.settings import Settings
from tests.brokers.certificates import Authority

PASSWORD = "s3cr3t-password-of-the-key"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """A private CA."""
    return Authority(tmp_path)


def tls(ca: Authority, **changes: Any) -> Settings:
    """Settings of a client that trusts this CA alone."""
    values: dict[str, Any] = {"kafka_security_protocol": "SSL", "kafka_ssl_ca_file": str(ca.file)}
    return Settings(**values | changes)


@asynccontextmanager
async def server(certificate: Path, *, clients_from: Authority | None = None) -> AsyncIterator[int]:
    """The port of a TLS server that says ``ok`` to whoever passes the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if clients_from is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients_from.file)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ok")
        await writer.drain()
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def greeted(port: int, context: ssl.SSLContext, *, host: str = "127.0.0.1") -> bool:
    """Connect; True once the server has taken this client in."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
    try:
        return await reader.readexactly(2) == b"ok"
    finally:
        writer.close()


def test_a_plaintext_client_gets_no_secret() -> None:
    """Nothing but the protocol is handed to aiokafka where nothing is secured."""
    assert security_arguments(Settings()) == {"security_protocol": "PLAINTEXT"}


def test_a_client_that_logs_in_gets_mechanism_user_and_password(ca: Authority) -> None:
    """SCRAM and PLAIN differ by the mechanism's name alone."""
    arguments = security_arguments(
        tls(ca, kafka_security_protocol="SASL_SSL", kafka_sasl_username="node", kafka_sasl_password="p")
    )

    assert arguments["security_protocol"] == "SASL_SSL"
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("node", "p")
    assert isinstance(arguments["ssl_context"], TlsContext)


async def test_host_names_are_always_checked(ca: Authority) -> None:
    """A valid certificate of another host is refused, and no setting turns that off."""
    context = TlsContext.of(tls(ca))
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)

    async with server(ca.sign("broker")) as port:
        assert await greeted(port, context)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await greeted(port, context, host="kafka.example")


async def test_a_certificate_of_another_ca_is_refused(ca: Authority, tmp_path: Path) -> None:
    """Trusting a private CA means trusting nobody else."""
    async with server(ca.sign("broker")) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            await greeted(port, TlsContext.of(tls(Authority(tmp_path, name="other CA"))))


async def test_an_expired_certificate_of_a_broker_is_named(ca: Authority) -> None:
    """The command's error says that it has expired, and whose it is."""
    async with server(ca.sign("broker", ends_in=timedelta(seconds=-1))) as port:
        with pytest.raises(BrokerUnreachable, match="TLS failed: the broker's certificate has expired"):
            async with connected(tls(ca, kafka_bootstrap_servers=f"127.0.0.1:{port}")):
                pass


@pytest.mark.parametrize("separate_key", [False, True])
async def test_a_client_shows_its_certificate(ca: Authority, separate_key: bool) -> None:
    """With the key in the same file or in one of its own, encrypted."""
    mine = ca.sign("me", password=PASSWORD, separate_key=separate_key)
    settings = tls(
        ca,
        kafka_ssl_certificate_file=str(mine),
        kafka_ssl_key_file=str(mine.with_suffix(".key")) if separate_key else None,
        kafka_ssl_key_password=PASSWORD,
    )
    async with server(ca.sign("broker"), clients_from=ca) as port:
        assert await greeted(port, TlsContext.of(settings))


async def test_renewed_files_are_read_before_the_next_connection(ca: Authority, tmp_path: Path) -> None:
    """A certificate renewed on disk needs no restart, and a broken file leaves what was read before."""
    mine = tmp_path / "mine.pem"
    shutil.copy(Authority(tmp_path, name="other CA").sign("stranger"), mine)
    context = TlsContext.of(tls(ca, kafka_ssl_certificate_file=str(mine)))
    async with server(ca.sign("broker"), clients_from=ca) as port:
        with pytest.raises((ssl.SSLError, asyncio.IncompleteReadError, ConnectionError)):
            await greeted(port, context)
        shutil.copy(ca.sign("me"), mine)
        assert await greeted(port, context)
        mine.write_text("half of a f")
        assert await greeted(port, context)
        mine.unlink()
        assert await greeted(port, context)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kafka_ssl_ca_file": "DIR/none.pem"}, r"kafka_ssl_ca_file '.*none\.pem' cannot be read: No such file"),
        ({"kafka_ssl_ca_file": "DIR/nonsense.pem"}, "kafka_ssl_ca_file .* holds no certificate in PEM form"),
        ({"kafka_ssl_certificate_file": "DIR/none.pem"}, "kafka_ssl_certificate_file .* cannot be read"),
        ({"kafka_ssl_certificate_file": "DIR/nonsense.pem"}, "must be PEM files of a certificate and its private key"),
        (
            {"kafka_ssl_certificate_file": "DIR/me.pem", "kafka_ssl_key_file": "DIR/stranger.pem"},
            "the key belongs to another certificate",
        ),
        ({"kafka_ssl_certificate_file": "DIR/locked.pem"}, "the key is encrypted, and kafka_ssl_key_password is not"),
        (
            {"kafka_ssl_certificate_file": "DIR/locked.pem", "kafka_ssl_key_password": "s3cr3t-of-another"},
            "the key is encrypted, and kafka_ssl_key_password is wrong",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(ca: Authority, tmp_path: Path, changes: dict[str, str], said: str) -> None:
    """Each message names the setting and what is wrong; a password is never asked for on the terminal, nor shown."""
    (tmp_path / "nonsense.pem").write_text("nonsense")
    ca.sign("me")
    ca.sign("stranger")
    ca.sign("locked", password=PASSWORD)
    values = {name: value.replace("DIR", str(tmp_path)) for name, value in changes.items()}
    with pytest.raises(SettingsError, match=said) as caught:
        client_arguments(tls(ca, **values))

    assert "s3cr3t-of-another" not in str(caught.value)


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        ({"ends_in": timedelta(hours=-1)}, "expired at 20"),
        ({"starts_in": timedelta(hours=1)}, "is not valid before 20"),
    ],
)
def test_the_dates_of_this_clients_certificate_are_doubted(ca: Authority, dates: dict[str, Any], said: str) -> None:
    """A broker's alert says little; the file says when."""
    settings = tls(ca, kafka_ssl_certificate_file=str(ca.sign("me", **dates)))

    assert said in str(certificate_doubt(settings))


def test_a_good_certificate_raises_no_doubt(ca: Authority) -> None:
    """None where all is well, where there is no certificate, and where none is used."""
    assert certificate_doubt(tls(ca, kafka_ssl_certificate_file=str(ca.sign("me")))) is None
    assert certificate_doubt(tls(ca)) is None
    assert certificate_doubt(Settings()) is None


def test_a_context_prints_its_files_alone(ca: Authority) -> None:
    """The password of the key is in no repr."""
    mine = ca.sign("me", password=PASSWORD)
    text = repr(TlsContext.of(tls(ca, kafka_ssl_certificate_file=str(mine), kafka_ssl_key_password=PASSWORD)))

    assert text == f"TlsContext(ca={str(ca.file)!r}, certificate={str(mine)!r})"
