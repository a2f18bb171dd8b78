"""A model of the Hub, from a mirror on this machine that speaks the Hub's protocol."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
ID, COMMIT = "films/small", "0123456789abcdef0123456789abcdef01234567"


class Mirror(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks of HF_ENDPOINT: a model's commit and files, and each file."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].partition("/resolve/")[2].partition("/")[2]
        file = self.folder / name
        files = sorted(self.folder.iterdir())
        if self.path.startswith(f"/api/models/{ID}/tree"):
            tree = [
                {"type": "file", "path": one.name, "size": one.stat().st_size, "oid": COMMIT} for one in files
            ]
            self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif self.path.startswith(f"/api/models/{ID}"):
            siblings = [{"rfilename": one.name} for one in files]
            told = {"id": ID, "modelId": ID, "sha": COMMIT, "siblings": siblings, "tags": []}
            self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})
        elif name and file.is_file():
            data = file.read_bytes()
            self.answer(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *unused: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "on-the-hub"
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(folder)
    handler = type("Here", (Mirror,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def found(mirror: str, folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import json, sys; from pathlib import Path; from ptw.agent.origin import find\n"
        "from ptw.errors import PtwError\n"
        "try: one = find(sys.argv[1], None, Path.cwd())\n"
        "except PtwError as error: sys.exit(str(error))\n"
        "print(json.dumps([one.model_type, dict(one.table), sorted(p.name for p in one.folder.iterdir())]))"
    )
    online = {"HF_ENDPOINT": mirror, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | online
    command = [sys.executable, "-c", code, source]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_newest_commit_is_pinned_and_its_files_are_fetched(mirror: str, tmp_path: Path) -> None:
    done = found(mirror, tmp_path, ID)
    assert done.returncode == 0, done.stderr
    model_type, table, files = json.loads(done.stdout)
    assert (model_type, table) == ("llama", {"hf": ID, "revision": COMMIT})
    assert {"config.json", "model.safetensors"} <= set(files)


def test_an_id_that_is_not_there_is_said(mirror: str, tmp_path: Path) -> None:
    done = found(mirror, tmp_path, "films/other")
    assert done.returncode == 1
    assert "--hf 'films/other': its newest commit can't be asked for" in done.stderr
    assert "HF_TOKEN" in done.stderr
