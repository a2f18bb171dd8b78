"""A proxy before a real server of objects that fails as told: resets, errors, stalls, bodies cut short."""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["pass", "reset", "500", "stall", "slow down", "cut"]
STALL_SECONDS = 1.5


class Flaky(ThreadingHTTPServer):
    """Fails the GETs of objects by `faults`, one after the other; passes the rest on."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = (host, port)
        self.faults: Iterator[Fault] = iter(())
        self.failed: list[Fault] = []
        self.direct: Any = None  # the filesystem that is behind it
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self) -> Fault:
        with self.lock:
            fault = next(self.faults, "pass")
            self.failed += [fault] if fault != "pass" else []
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that gave up


@contextmanager
def flaky(host: str, port: int) -> Iterator[Flaky]:
    server = Flaky(host, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behind = http.client.HTTPConnection(*self.server.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        is_object = self.command == "GET" and "?" not in self.path and self.path.count("/") > 1
        fault = self.server.next_fault() if is_object else "pass"
        if fault in ("500", "slow down"):
            self._say(500 if fault == "500" else 503, [], b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        kept = [h for h in answer.getheaders() if h[0].lower() not in ("transfer-encoding", "connection")]
        half = content[: len(content) // 2]
        self._say(answer.status, kept, half if fault in ("reset", "cut") else content)
        if fault in ("reset", "cut"):
            self.close_connection = True
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # the close is a reset
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = _pass_on

    def _say(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass
