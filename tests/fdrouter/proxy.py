"""A way to the router that breaks: passes bytes on until one direction has said a given word, then cuts both."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class BreakingProxy:
    """Listens on loopback and leads to ``port``. ``asked`` and ``answered`` are the words that cut; one cut each.

    The bytes that hold the word are passed on for ``asked`` (the router hears the request, the client no answer) and
    for ``answered`` (the client hears the beginning).
    """

    def __init__(self, port: int, *, asked: bytes = b"", answered: bytes = b"", times: int = 1) -> None:
        self._target = port
        self._asked, self._answered = asked, answered
        self.left = times
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._shut(self._listener)
        for opened in self._open:
            self._shut(opened)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> BreakingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _shut(opened: socket.socket) -> None:
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)
        opened.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                router = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, router]
                for way in ((client, router, self._asked), (router, client, self._answered)):
                    thread = threading.Thread(target=self._pass_on, args=way, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, word: bytes) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if word and word in data and self._may_cut():
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _may_cut(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left >= 0
