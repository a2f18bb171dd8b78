"""A scripted endpoint in OpenAI's protocol, and a workspace: the paid thing is faked, all else is real."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


@dataclass(frozen=True)
class Answer:
    """What the endpoint says to one request."""

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # to wait before


def reply(content: str = "", *calls: tuple[str, Any], finish: str | None = None, **usage: Any) -> Answer:
    """An assistant's message; the arguments of a call are an object, or a text as it stands."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{number}_{abs(hash(str(call)))}",
                "type": "function",
                "function": {
                    "name": call[0],
                    "arguments": call[1] if isinstance(call[1], str) else json.dumps(call[1]),
                },
            }
            for number, call in enumerate(calls)
        ]
    finish = finish or ("tool_calls" if calls else "stop")
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Answer(body | {"usage": USAGE | usage})


def refusal(status: int, text: str, **headers: str) -> Answer:
    return Answer({"error": {"message": text, "type": "x", "code": None}}, status, headers)


class Endpoint:
    """Answers in the given order; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                endpoint.asked.append(json.loads(self.rfile.read(length)))
                answer = (
                    endpoint.answers.pop(0) if endpoint.answers else refusal(500, "nothing is left to say")
                )
                threading.Event().wait(answer.seconds)
                data = json.dumps(answer.body).encode()
                with contextlib.suppress(BrokenPipeError):  # whoever asked has gone
                    self.send_response(answer.status)
                    for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *unused: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def says(self, answers: Sequence[Answer]) -> None:
        self.answers, self.asked = list(answers), []


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


WORKSPACE = """\
# What we train; order and comments matter to us.
[workspace]
name = "films"

[models.small.config]  # from scratch
model_type = "llama"

# who ports
[agent]
llm = "openai/by-hand"
usd_per_million_input = 3.0
usd_per_million_output = 15.0
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A repository of one commit."""
    root = tmp_path / "films"
    root.mkdir()
    (root / "workspace.toml").write_text(WORKSPACE)
    (root / ".gitignore").write_text(".ptw/\nruns/\n")
    for command in (["init", "-q", "-b", "main"], ["add", "--all"], ["commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


@pytest.fixture(autouse=True)
def author(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever commits, on a machine that knows nobody."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.org")
