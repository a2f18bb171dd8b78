"""A small server of chat completions in OpenAI's protocol, over real HTTP, that fails as told."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL_SECONDS = 1.0
ADDED = {"one": 1, "two": 2, "three": 3}


class Served(ThreadingHTTPServer):
    """Answers "What is N and one?" with the sum; of a seed and a temperature the same each time.

    faults: what befalls the next requests, one after the other: an HTTP status, a status with Retry-After or
    with a whole body, "drop" (the connection ends without an answer), "stall" or "garble". befalls: the same
    of every request for a question. ends: after so many answers, what befalls all others. seconds: that an
    answer takes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[Any] = []
        self.befalls: dict[str, Any] = {}
        self.ends: tuple[int, Any] | None = None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.seconds = 0.0
        self.answered = self.at_once = self.most_at_once = 0
        self.takes_max_tokens = True
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that was killed


@contextmanager
def serving() -> Iterator[Served]:
    server = Served()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Served

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.headers.append(dict(self.headers))
            fault = self._fault_of(body["messages"][-1]["content"])
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._answer(body, fault)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _fault_of(self, question: str) -> Any:
        server = self.server
        if server.ends is not None and server.answered >= server.ends[0]:
            return server.ends[1]
        if question in server.befalls:
            return server.befalls[question]
        return server.faults.pop(0) if server.faults else None

    def _answer(self, body: dict[str, Any], fault: Any) -> None:
        time.sleep(STALL_SECONDS if fault == "stall" else self.server.seconds)
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif fault == "garble":
            self._say(200, {"choices": []})
        elif isinstance(fault, tuple) and isinstance(fault[1], dict):
            self._say(*fault)
        elif isinstance(fault, tuple):
            self._say(fault[0], {"error": {"message": "slower, please"}}, {"Retry-After": fault[1]})
        elif isinstance(fault, int):
            said = f"no, said to {self.headers.get('Authorization')}"
            self._say(fault, {"error": {"message": said}})
        elif "max_tokens" in body and not self.server.takes_max_tokens:
            self._say(400, {"error": {"message": "use max_completion_tokens", "param": "max_tokens"}})
        else:
            self._say(200, completion(body))
            with self.server.lock:
                self.server.answered += 1

    def _say(self, status: int, values: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *unused: object) -> None:
        pass


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """What a question asks for, in its own words: "Refuse.", "Filter.", "Ramble.", "Say nothing."."""
    question = body["messages"][-1]["content"]
    message: dict[str, Any] = {"role": "assistant", "content": _sum(question, body)}
    finish = "stop"
    if "Refuse" in question:
        message = {"role": "assistant", "content": None, "refusal": "I would rather not."}
    elif "Filter" in question:
        finish = "content_filter"
    elif "Ramble" in question:
        message["content"], finish = "so", "length"
    elif "nothing" in question:
        message["content"] = ""
    usage = {"prompt_tokens": 10 + len(question) // 4, "completion_tokens": 2}
    return {
        "object": "chat.completion",
        "choices": [{"message": message, "finish_reason": finish}],
        "usage": usage,
    }


def _sum(question: str, body: dict[str, Any]) -> str:
    words = question.replace("?", "").split()
    wanted = sum(int(word) if word.isdigit() else ADDED.get(word, 0) for word in words)
    drawn = random.Random(body.get("seed")).randrange(5) if body["temperature"] else 0
    return str(wanted + drawn)
