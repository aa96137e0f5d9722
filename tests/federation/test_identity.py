"""Identities: TLS roles that OpenSSL itself enforces, keys that belong together, secrets that stay with their owner."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from federation import identity, tls
from tests.federation.keys import ring


def certificate(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((ring().folder(name) / "cert.pem").read_bytes())


def fingerprint(name: str) -> str:
    return certificate(name).fingerprint(hashes.SHA256()).hex()


def server_context(name: str) -> ssl.SSLContext:
    """What uvicorn makes of ``--ssl-cert-reqs 2 --ssl-ca-certs ca.pem``."""
    folder = ring().folder(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    return context


def client_context(name: str, trusts: str | None = None) -> ssl.SSLContext:
    """The gateway's own context; ``trusts`` swaps in another network's CA, as an attacker may."""
    if trusts is None:
        return tls.context_for(ring().folder(name), fingerprint("northfield"))
    context = ssl.create_default_context(cafile=str(ring().folder(trusts) / "ca.pem"))
    context.load_cert_chain(ring().folder(name) / "cert.pem", ring().folder(name) / "key.pem")
    return context


def talk(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> tuple[str | None, str | None]:
    """One exchange over a real socket on loopback; the reasons why server and client refused, or None."""
    refusals: dict[str, str | None] = {"server": None, "client": None}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            raw, _ = listener.accept()
            raw.settimeout(10)
            try:
                with server.wrap_socket(raw, server_side=True) as line:
                    line.recv(4)
                    line.sendall(b"pong")
            except (ssl.SSLError, OSError) as error:
                refusals["server"] = getattr(error, "reason", None) or type(error).__name__
            finally:
                raw.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=host) as line,
            ):
                line.sendall(b"ping")
                if line.recv(4) != b"pong":
                    refusals["client"] = "closed"
        except ssl.SSLCertVerificationError as error:
            refusals["client"] = error.verify_message
        except (ssl.SSLError, OSError) as error:
            refusals["client"] = getattr(error, "reason", None) or type(error).__name__
        thread.join(10)
    return refusals["server"], refusals["client"]


def test_the_coordinator_talks_to_a_node() -> None:
    assert talk(server_context("northfield"), client_context("coordinator")) == (None, None)
    assert talk(server_context("northfield"), client_context("coordinator"), host="127.0.0.1") == (None, None)


def test_a_node_cannot_act_as_a_client() -> None:
    server, client = talk(server_context("northfield"), client_context("lakeside"))
    assert server is not None and "CERTIFICATE_VERIFY_FAILED" in server
    assert client is not None


def test_the_coordinator_cannot_act_as_a_node() -> None:
    _, client = talk(server_context("coordinator"), client_context("coordinator"))
    assert client is not None and "unsuitable certificate purpose" in client or "unsupported" in str(client)


def test_a_client_of_another_network_is_refused() -> None:
    server, _ = talk(server_context("northfield"), client_context("stranger", trusts="northfield"))
    assert server is not None and "CERTIFICATE_VERIFY_FAILED" in server


def test_a_node_of_another_network_is_refused() -> None:
    _, client = talk(server_context("strange-node"), client_context("coordinator"))
    assert client is not None and "self-signed certificate" in client or "unable to get" in str(client)


def test_a_client_without_a_certificate_is_refused() -> None:
    context = ssl.create_default_context(cafile=str(ring().folder("northfield") / "ca.pem"))
    server, _ = talk(server_context("northfield"), context)
    assert server is not None and "PEER_DID_NOT_RETURN_A_CERTIFICATE" in server


def test_a_node_answers_only_to_its_own_host_names() -> None:
    _, client = talk(server_context("northfield"), client_context("coordinator"), host="elsewhere.example")
    assert client is not None and "Hostname mismatch" in client


async def received_from(server: str, client: ssl.SSLContext) -> bytes:
    """What a node got of one message sent through asyncio, as the gateway does."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read(16))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(server)) as listener:
        port = listener.sockets[0].getsockname()[1]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
            writer.write(b"question")
            await writer.drain()
        except ssl.SSLCertVerificationError as error:
            assert "not the one in the roster" in str(error)
            return b""
        answer = await asyncio.wait_for(got, 10)
        writer.close()
        return answer


async def test_a_member_cannot_stand_in_for_another_node() -> None:
    pinned = client_context("coordinator")
    assert await received_from("northfield", pinned) == b"question"
    assert await received_from("lakeside", pinned) == b""


@pytest.mark.parametrize("missing", ["", "abc"])
def test_a_node_without_a_fingerprint_is_not_called(missing: str) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        tls.context_for(ring().folder("coordinator"), missing)


def test_old_protocols_are_refused() -> None:
    old = server_context("northfield")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    server, client = talk(old, client_context("coordinator"))
    assert server is not None and client is not None


def test_certificates_are_short_lived_and_cannot_issue_others() -> None:
    found = certificate("northfield")
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert found.not_valid_after_utc - found.not_valid_before_utc <= dt.timedelta(days=398)
    ca = x509.load_pem_x509_certificate((ring().folder("northfield") / "ca.pem").read_bytes())
    found.verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_issuing_tells_the_fingerprint(tmp_path: Path) -> None:
    fingerprint = identity.issue(
        ring().folder("ca"), tmp_path / "new", "new", server=True, hosts=("node.example", "10.0.0.7")
    )
    found = x509.load_pem_x509_certificate((tmp_path / "new" / "cert.pem").read_bytes())
    assert fingerprint == found.fingerprint(hashes.SHA256()).hex()
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]


@pytest.mark.parametrize("file", ["key.pem", "keys.json"])
def test_private_files_are_their_owners_alone(file: str) -> None:
    assert stat.S_IMODE((ring().folder("northfield") / file).stat().st_mode) == 0o600
    assert stat.S_IMODE((ring().folder("ca") / "ca-key.pem").stat().st_mode) == 0o600


def test_private_files_are_private_also_where_everything_is_open(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        identity.issue(ring().folder("ca"), tmp_path / "open", "open", server=True)
    finally:
        os.umask(before)
    for file in ("key.pem", "keys.json"):
        assert stat.S_IMODE((tmp_path / "open" / file).stat().st_mode) == 0o600


def test_public_documents_hold_no_private_key() -> None:
    private = json.loads((ring().folder("northfield") / "keys.json").read_text())
    public = (ring().folder("northfield") / "public.json").read_text()
    assert not [name for name in ("mlkem768", "x25519", "ed25519", "mldsa65") if private[name] in public]


def test_an_identity_does_not_print_its_keys() -> None:
    assert repr(ring().identity("northfield")) == "Identity('northfield')"


def test_a_loaded_identity_is_the_published_one() -> None:
    document = json.loads((ring().folder("northfield") / "public.json").read_text())
    public = identity.load_public(document)
    loaded = ring().identity("northfield").public
    assert (public.name, public.key_id) == (loaded.name, loaded.key_id) == ("northfield", document["key_id"])
    assert identity.load_coordinator(ring().folder("northfield")).name == "coordinator"


@pytest.mark.parametrize("field", ["mlkem768", "x25519", "ed25519", "mldsa65"])
def test_a_key_of_another_node_does_not_fit_the_key_id(field: str) -> None:
    mine = json.loads((ring().folder("northfield") / "public.json").read_text())
    other = json.loads((ring().folder("lakeside") / "public.json").read_text())
    with pytest.raises(ValueError, match="key id"):
        identity.load_public({**mine, field: other[field]})
    with pytest.raises(KeyError):
        identity.load_public({name: value for name, value in mine.items() if name != field})


def test_two_identities_share_no_key(tmp_path: Path) -> None:
    shutil.copytree(ring().folder("ca"), tmp_path / "ca")
    for name in ("a", "b"):
        identity.issue(tmp_path / "ca", tmp_path / name, "same-name", server=True)
    a, b = (json.loads((tmp_path / name / "keys.json").read_text()) for name in ("a", "b"))
    assert not set(a.values()) & set(b.values()) - {"same-name"}
