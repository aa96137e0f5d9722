#!/usr/bin/env python3
"""Fake OpenAI-compatible backends: one process, one loopback port per backend.

    python3 fake_backend.py --ports 9101 9102 9103 9104 --delay-ms 0

Every POST returns the same chat completion (id and counters included), after
--delay-ms of asynchronous sleep. "stream": true gets --chunks SSE events, the
first after --delay-ms and each later one after --chunk-ms.
GET /health, /v1/models, /metrics and /hits (requests served per port) answer at once.
Standard library only; uses uvloop when it is installed.
"""

import argparse
import asyncio
import json
import ssl
import time

MODEL = "fake-model"
TEXT = "The fixed reply of a fake backend, some twenty tokens long, so that a gateway has a body to carry."


def completion():
    return json.dumps(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40},
        }
    ).encode()


def chunk(content, finish=None):
    return (
        b"data: "
        + json.dumps(
            {
                "id": "chatcmpl-fake",
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": MODEL,
                "choices": [{"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}],
            },
        ).encode()
        + b"\n\n"
    )


def reply(body, ctype=b"application/json"):
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: "
        + ctype
        + b"\r\ncontent-length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
        + body
    )


def http_chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Backend(asyncio.Protocol):
    def __init__(self, opts, hits, port):
        self.opts, self.hits, self.port, self.buf, self.close = opts, hits, port, b"", False

    def connection_made(self, transport):
        self.transport = transport

    def send(self, data, last=False):
        if not self.transport.is_closing():
            self.transport.write(data)
            if last and self.close:
                self.transport.close()

    def data_received(self, data):
        self.buf += data
        while True:
            end = self.buf.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buf[:end].split(b"\r\n")
            length, encoded = 0, False
            for line in head[1:]:
                name, _, value = line.partition(b":")
                name = name.strip().lower()
                if name == b"content-length":
                    length = int(value)
                elif name == b"transfer-encoding" and b"chunked" in value.lower():
                    encoded = True
                elif name == b"connection":
                    self.close = b"close" in value.lower()
                elif name == b"expect":
                    self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            rest = self.buf[end + 4 :]
            if encoded:
                body, size = self.dechunk(rest)
                if body is None:
                    return
            elif len(rest) < length:
                return
            else:
                body, size = rest[:length], length
            self.buf = rest[size:]
            method, path = head[0].split(b" ")[:2]
            self.handle(method, path, body)

    @staticmethod
    def dechunk(data):
        out, at = b"", 0
        while True:
            eol = data.find(b"\r\n", at)
            if eol < 0:
                return None, 0
            n = int(data[at:eol].split(b";")[0], 16)
            if len(data) < eol + 2 + n + 2:
                return None, 0
            out += data[eol + 2 : eol + 2 + n]
            at = eol + 2 + n + 2
            if n == 0:
                return out, at

    def handle(self, method, path, body):
        if method != b"POST":
            if path.startswith(b"/v1/models"):
                self.send(
                    reply(
                        json.dumps(
                            {
                                "object": "list",
                                "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "fake"}],
                            }
                        ).encode()
                    ),
                    True,
                )
            elif path.startswith(b"/hits"):
                self.send(reply(json.dumps(self.hits).encode()), True)
            elif path.startswith(b"/metrics"):
                self.send(reply(b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n", b"text/plain"), True)
            else:
                self.send(reply(b"{}"), True)
            return
        self.hits[self.port] += 1
        loop, delay = asyncio.get_running_loop(), self.opts.delay_ms / 1000
        if b'"stream":true' in body.replace(b" ", b""):
            loop.create_task(self.stream(delay))
        elif delay:
            loop.call_later(delay, lambda: self.send(reply(completion()), True))
        else:
            self.send(reply(completion()), True)

    async def stream(self, delay):
        await asyncio.sleep(delay)
        self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for i in range(self.opts.chunks):
            if i:
                await asyncio.sleep(self.opts.chunk_ms / 1000)
            self.send(http_chunk(chunk(f"tok{i} ")))
        self.send(http_chunk(chunk("", "stop")) + http_chunk(b"data: [DONE]\n\n") + http_chunk(b""), True)


def tls_context(folder):
    """Mutual TLS with the identity in `folder` (ca.pem, cert.pem, key.pem), or none."""
    if not folder:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{folder}/ca.pem")
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve(opts):
    loop, hits = asyncio.get_running_loop(), {p: 0 for p in opts.ports}
    for port in opts.ports:
        await loop.create_server(
            lambda port=port: Backend(opts, hits, port), "127.0.0.1", port, backlog=1024, ssl=tls_context(opts.tls)
        )
    await asyncio.sleep(opts.live_s)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--ports", type=int, nargs="+", default=[9101, 9102, 9103, 9104])
    ap.add_argument("--delay-ms", type=float, default=0)
    ap.add_argument("--chunks", type=int, default=20)
    ap.add_argument("--chunk-ms", type=float, default=5)
    ap.add_argument("--tls", help="folder of an identity: speak mutual TLS")
    ap.add_argument("--live-s", type=float, default=3600, help="stop by itself after this long")
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(serve(ap.parse_args()))
