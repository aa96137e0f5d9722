"""An engine whose answers are a known function of what it is asked: two requests of vLLM's interface, and no model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from privacy.dp.decoding import Floats

MODEL = "m"
VOCABULARY = 49152
Reply = Callable[[dict[str, Any]], dict[str, Any] | None]


def log_probabilities(row: Sequence[int]) -> Floats:
    """Of every token after ``row``, shape (vocabulary): another row, another draw; the same row, the same numbers."""
    seed = int.from_bytes(hashlib.sha256(json.dumps(list(row)).encode()).digest()[:8])
    logits = np.random.default_rng(seed).normal(size=VOCABULARY) * 3
    found: Floats = logits - np.log(np.exp(logits).sum())
    return found


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # all rows of a step come at once


class Likely:
    """``heard`` are the bodies of all questions. ``reply`` may answer in its place, or say None to leave it to it."""

    def __init__(self, model: str = MODEL) -> None:
        self.heard: list[dict[str, Any]] = []
        self.reply: Reply = lambda body: None
        self.status = 200
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say(200, {"object": "list", "data": [{"id": model, "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                engine.heard.append({"path": self.path, **body})
                self._say(engine.status, engine.reply(body) or answer(body))

            def _say(self, status: int, document: dict[str, Any]) -> None:
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing to say."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The questions about given tokens: one a row and step."""
        return [body for body in self.heard if "logprob_token_ids" in body]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """What vLLM says: the likeliest token first, then those asked about."""
    row = log_probabilities(body["prompt"])
    asked = body.get("logprob_token_ids") or np.argsort(-row, kind="stable")[: body["logprobs"]].tolist()
    return document({token: float(row[token]) for token in [int(row.argmax()), *asked]})


def document(named: dict[int, Any]) -> dict[str, Any]:
    top = {f"token_id:{token}": value for token, value in named.items()}
    return {"choices": [{"text": " x", "logprobs": {"top_logprobs": [top]}}]}
