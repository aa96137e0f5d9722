"""Nodes that are not what the roster says: they stall, show a wrong certificate, or answer with wrong bytes."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from federation import identity, receipts, sealing

Reply = Callable[[bytes], bytes]
PATIENCE = 30.0


class Listener:
    """A loopback port whose connections are served by threads until :meth:`close`. ``tried`` counts them."""

    def __init__(self) -> None:
        self.tried = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self._listener.getsockname()[1]}"

    def serve(self, client: socket.socket) -> None:
        """One connection, on a thread of its own. The connection is cut when it returns."""

    def close(self) -> None:
        for opened in (self._listener, *self._open):
            _shut(opened)
        self._thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(PATIENCE)
                self.tried += 1
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            self.serve(client)
        _shut(client)


class SilentNode(Listener):
    """Accepts connections and says nothing at all."""

    def serve(self, client: socket.socket) -> None:
        while client.recv(65536):
            pass


class StallingNode(Listener):
    """Leads to a real node. Once ``stalls`` bytes have gone to the node, nothing comes back any more.

    The handshake takes less than that, a sealed question more: the node hears the question and nobody hears the node.
    """

    stalls = 6000

    def __init__(self, port: int) -> None:
        self._port = port
        self.heard = threading.Event()
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as node:
            held = threading.Event()
            back = threading.Thread(target=self._back, args=(node, client, held), daemon=True)
            back.start()
            passed = 0
            while data := client.recv(65536):
                passed += len(data)
                if passed > self.stalls:
                    held.set()
                    self.heard.set()
                node.sendall(data)
            _shut(node)
            back.join(5)

    @staticmethod
    def _back(node: socket.socket, client: socket.socket, held: threading.Event) -> None:
        with suppress(OSError):
            while data := node.recv(65536):
                if not held.is_set():
                    client.sendall(data)


class Impostor(Listener):
    """Answers every request over mutual TLS as the identity in ``folder``, with whatever ``reply`` makes of its body.

    ``heard`` is everything that came through the encrypted channel.
    """

    def __init__(self, folder: Path, ca: Path, reply: Reply) -> None:
        self._reply = reply
        self.heard = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._context.load_verify_locations(ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with self._context.wrap_socket(client, server_side=True) as channel:
            head, _, body = self._read_until(channel, b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].partition(b":")[2]) if lengths else 0
            while len(body) < length:
                body += self._hear(channel)
            channel.sendall(self._reply(body))

    def _read_until(self, channel: ssl.SSLSocket, end: bytes) -> tuple[bytes, bytes, bytes]:
        data = b""
        while end not in data:
            data += self._hear(channel)
        return data.partition(end)

    def _hear(self, channel: ssl.SSLSocket) -> bytes:
        data = channel.recv(65536)
        if not data:
            raise ConnectionResetError
        self.heard += data
        return data


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()


def response(body: bytes) -> bytes:
    """A whole HTTP response, after which the connection ends."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


def answer(text: str, receipt: dict[str, Any] | None) -> bytes:
    """A response that holds one answer event."""
    event = {"type": "answer", "text": text, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    if receipt is not None:
        event["receipt"] = receipt
    return response(json.dumps(event).encode() + b"\n")


def receipt_for(envelope: bytes, reader: Path, signer: Path, text: str, **changes: Any) -> dict[str, Any]:
    """The receipt that the node ``signer`` would give for an answer to this envelope, which ``reader`` can open.

    ``changes`` replace parts of its body; the name of the node in it is that of ``reader``.
    """
    node = identity.load(reader)
    message_id, payload = sealing.unseal(node, identity.load_coordinator(reader), envelope)
    body = {
        "message_id": message_id,
        "request_digest": payload["request_digest"],
        "kind": payload["kind"],
        "answer_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "mechanism": None,
        "node": node.name,
    }
    return receipts.issue(identity.load(signer), body | changes)
