"""An OpenAI-compatible engine that is not ours, well-behaved or broken: what it does depends on the model's name."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("Aspirin ", "thins ", "the ", "blood.")
ANSWER = "".join(WORDS)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
STALL_SECONDS = 20.0
# What the models of this engine do. ``refusing`` is served by nobody: its address is a closed port.
BROKEN = ("error", "garbage", "shapeless", "stalling", "dying", "truncated")
MODELS = ("steady", "gated", "empty", "refusing", *BROKEN)


class Backend:
    """The engine, on a loopback port. ``calls`` counts requests by model; ``gate`` lets ``gated`` answers go on."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.closing = threading.Event()
        backend = self

        class Handler(_Handler):
            engine = backend

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is none of the engine's business."""


class _Handler(BaseHTTPRequestHandler):
    engine: Backend

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body["model"]
        self.engine.calls[model] += 1
        self.engine.bodies.append(body)
        act = getattr(self, f"_{model}", self._steady)
        act(body)
        self.close_connection = True

    def _steady(self, body: dict[str, Any]) -> None:
        if not body["stream"]:
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._json({"choices": [choice], "usage": USAGE})
            return
        self._open_stream()
        for word in WORDS:
            self._delta(word)
        self._end_stream()

    def _gated(self, body: dict[str, Any]) -> None:
        if not body["stream"]:
            self.engine.gate.wait(30)
            self._steady(body)
            return
        self._open_stream()
        self._delta(WORDS[0])
        self.engine.gate.wait(30)
        for word in WORDS[1:]:
            self._delta(word)
        self._end_stream()

    def _error(self, body: dict[str, Any]) -> None:
        self._json({"error": {"message": "out of memory at 0xdeadbeef"}}, status=500)

    def _garbage(self, body: dict[str, Any]) -> None:
        self._send(b"\x00\xff<html>not json", "application/json")

    def _shapeless(self, body: dict[str, Any]) -> None:
        self._json({"choices": []})

    def _stalling(self, body: dict[str, Any]) -> None:
        self.engine.closing.wait(STALL_SECONDS)

    def _dying(self, body: dict[str, Any]) -> None:
        """Half an answer, then the connection ends without the end of the stream."""
        self._open_stream()
        self._delta(WORDS[0])
        time.sleep(0.05)

    def _truncated(self, body: dict[str, Any]) -> None:
        """Promises more bytes than it sends."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "5000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')

    def _empty(self, body: dict[str, Any]) -> None:
        if body["stream"]:
            self._open_stream()
            self._end_stream()
            return
        message = {"role": "assistant", "content": ""}
        self._json({"choices": [{"index": 0, "message": message, "finish_reason": "length"}]})

    def _json(self, document: Any, status: int = 200) -> None:
        self._send(json.dumps(document).encode(), "application/json", status)

    def _send(self, data: bytes, content_type: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _open_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()

    def _delta(self, text: str, finish: str | None = None) -> None:
        delta = {"content": text} if text else {}
        self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _end_stream(self) -> None:
        self._delta("", finish="stop")
        self._event({"choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, document: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.wfile.flush()
