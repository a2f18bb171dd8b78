"""A port that is hostile or broken: what it reaches for is not there, and what it does to itself is said."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptw.errors import PtwError
from ptw.verify import sandbox
from ptw.verify.reports.report import SubjectReport
from tests.processes import below, is_gone

Judged = Callable[..., tuple[sandbox.Outcome, SubjectReport]]

# every attempt runs in the port's process; what came of it returns as the text of a refusal
HOSTILE = '''"""Tries what a port may not."""
import glob, importlib, importlib.util, json, os, socket, subprocess, sys

from ptw.errors import PtwError

def by_path():
    pattern = sys.prefix + "/lib/python3*/site-packages/transformers/models/llama/modeling_llama.py"
    spec = importlib.util.spec_from_file_location("borrowed", glob.glob(pattern)[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

def without_guard():
    kept, sys.meta_path[:] = list(sys.meta_path), [f for f in sys.meta_path if type(f).__name__ != "Guard"]
    try:
        import transformers.models.llama.modeling_llama
    finally:
        sys.meta_path[:] = kept

def through_ptw():
    from ptw.ports.fallback import load_reference
    load_reference(__import__("pathlib").Path("/room/cases/00-plain/checkpoint"), None)

def in_memory():
    return [sys.modules[name] for name in sys.modules if name.startswith("transformers.")][0]

def secret():
    return os.environ["PTW_TEST_TOKEN"]

ATTEMPTS = {
    "import": lambda: __import__("transformers"),
    "importlib": lambda: importlib.import_module("transformers.models.llama.modeling_llama"),
    "by path": by_path,
    "without the guard": without_guard,
    "through ptw": through_ptw,
    "sys.modules": in_memory,
    "environment": secret,
    "socket": lambda: socket.create_connection(("127.0.0.1", 9)),
    "subprocess": lambda: subprocess.run(["true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "write beside the port": lambda: open(__file__, "a").write("#"),
    "write into a case": lambda: open(glob.glob("/room/cases/*")[0] + "/x", "w").write("x"),
    "read the machine": lambda: open("/etc/passwd").read(),
    "read the repository": lambda: open(@README@).read(),
    "see processes": lambda: [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) > 1][0],
}

def outcome(attempt):
    try:
        return "did it: " + repr(attempt())[:80]
    except BaseException as error:
        return type(error).__name__

RESULTS = {name: outcome(attempt) for name, attempt in ATTEMPTS.items()}

class Config:
    @classmethod
    def from_hf(cls, values):
        raise PtwError(json.dumps(RESULTS))

class Model: ...
def weights(config): ...
'''
# what a machine without namespaces can still refuse
BY_GUARD = (
    "import",
    "importlib",
    "by path",
    "without the guard",
    "through ptw",
    "environment",
    "socket",
    "fork",
)


def attempts(judged_apart: Judged, tmp_path: Path, repository: Path) -> dict[str, str]:
    hostile = HOSTILE.replace("@README@", repr(str(repository / "pyproject.toml")))
    judged_apart("llama", hostile)
    (refused,) = (tmp_path / "output").glob("*/refused")
    found: dict[str, str] = json.loads(refused.read_text())
    return found


@pytest.fixture
def without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "namespaces", lambda: None)


@pytest.mark.skipif(sandbox.namespaces() is None, reason="this machine lends no namespaces")
def test_nothing_that_a_port_may_not_do_succeeds(
    judged_apart: Judged, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTW_TEST_TOKEN", "secret")
    did = {
        name: said for name, said in attempts(judged_apart, tmp_path, repository).items() if "did it" in said
    }
    assert not did


@pytest.mark.usefixtures("without_namespaces")
def test_without_namespaces_the_guards_hold_and_what_is_missing_is_said(
    judged_apart: Judged, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTW_TEST_TOKEN", "secret")
    found = attempts(judged_apart, tmp_path, repository)
    assert not {name: found[name] for name in BY_GUARD if "did it" in found[name]}


@pytest.mark.usefixtures("without_namespaces")
def test_without_namespaces_the_outcome_names_each_missing_protection(
    judged_apart: Judged, text_of: Callable[[str], str]
) -> None:
    outcome, report = judged_apart("llama", text_of("llama"))
    assert report.passed, report.failures
    assert any("network" in entry for entry in outcome.missing)
    assert any("transformers" in entry for entry in outcome.missing)


def test_an_honest_port_passes_apart(judged_apart: Judged, text_of: Callable[[str], str]) -> None:
    outcome, report = judged_apart("llama", text_of("llama"))
    assert report.passed, (outcome, report.failures)
    if sandbox.namespaces() is not None:
        assert outcome.missing == ()


BROKEN = {
    "no python": ("def (", "SyntaxError"),
    "imports the reference": ("import transformers\n", "a port can't import transformers"),
    "raises": ("raise RuntimeError('a wrong turn')\n", "a wrong turn"),
    "dies": ("import os\nos.kill(os.getpid(), 11)\n", "can't do this: os.kill"),
    "ends early": ("import os\nos._exit(0)\n", "wrote nothing"),
    "takes all memory": ("x = bytearray(1 << 40)\n", "MemoryError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_port_fails_with_its_own_last_words(name: str, judged_apart: Judged) -> None:
    text, said = BROKEN[name]
    outcome, report = judged_apart("llama", text)
    assert not report.passed
    assert said in outcome.error + "".join(report.failures)


LINKED = """
import os
os.makedirs("/room/output/00-plain/export")
os.symlink(@ANSWER@, "/room/output/00-plain/trace.safetensors")
os._exit(0)
"""


@pytest.mark.skipif(sandbox.namespaces() is None, reason="this machine lends no namespaces")
def test_a_link_out_of_what_a_port_may_write_can_not_be_made(judged_apart: Judged) -> None:
    outcome, report = judged_apart("llama", LINKED.replace("@ANSWER@", repr("/etc/passwd")))
    assert "can't do this: os.symlink" in outcome.error
    assert not report.passed


@pytest.mark.skipif(sandbox.namespaces() is None, reason="this machine lends no namespaces")
def test_a_link_into_what_a_port_may_write_is_not_followed(
    judged_apart: Judged, answered: dict[str, Any]
) -> None:
    one = answered["llama"]
    # /tmp is the port's own inside and the machine's outside: only there can a link be made at all
    with tempfile.TemporaryDirectory(dir="/tmp") as outside:
        answer = shutil.copy(one.answers(one.case("plain")) / "said.safetensors", outside)
        outcome, report = judged_apart("llama", LINKED.replace("@ANSWER@", repr(answer)))
    assert "no plain file" in outcome.error
    assert not report.passed


WAITS = """
import sys
from pathlib import Path
from ptw.verify import sandbox
sandbox.run_apart("ptw.verify.port.trace", {"NAMED": Path(sys.argv[1])}, Path(sys.argv[2]))
"""


def test_it_ends_with_the_process_that_asked_it_however_that_ended(tmp_path: Path) -> None:
    """Waiting for its cases, it would wait for ever."""
    folders = {name: tmp_path / name for name in ("workspace", "cases", "gate")}
    for folder in folders.values():
        folder.mkdir()
    inputs = ", ".join(f'"{name}": Path(sys.argv[1]) / "{name}"' for name in folders)
    script = WAITS.replace('"NAMED": Path(sys.argv[1])', inputs)
    asker = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(tmp_path / "output")])
    try:
        until(lambda: any("-c" in command for command in below(asker.pid).values()))
        left = below(asker.pid)
    finally:
        asker.kill()
        asker.wait()
    until(lambda: all(is_gone(process) for process in left))


def test_its_turn_lasts_while_it_imports(tmp_path: Path) -> None:
    """What draws the cases meanwhile has a core of its own."""
    folders = {name: tmp_path / name for name in ("workspace", "cases", "gate")}
    for folder in folders.values():
        folder.mkdir()
    seen: list[str] = []

    class Turn(contextlib.AbstractContextManager[None]):
        def __exit__(self, *_: object) -> None:
            maps = [Path(f"/proc/{process}/maps").read_text() for process in below(os.getpid())]
            seen.append("imported" if any("libtorch" in text for text in maps) else "not yet")

    def go() -> None:
        seen.append("go")
        raise PtwError("enough")

    with pytest.raises(PtwError, match="enough"):
        sandbox.run_apart("ptw.verify.port.trace", folders, tmp_path / "output", go=go, turn=Turn())
    assert seen == ["imported", "go"]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_port_that_sleeps_is_ended(judged_apart: Judged) -> None:
    outcome, report = judged_apart("llama", "import time\ntime.sleep(600)\n", seconds=4)
    assert "longer than its 4 seconds" in outcome.error
    assert not report.passed


HEAD = "        return Head(self.lm_head.weight, self.config.vocab_size)"
SPOILT = {
    "nan": (HEAD, HEAD.replace("weight,", "weight * float('nan'),"), "NaN or infinity"),
    "another shape": (HEAD, HEAD.replace("vocab_size", "vocab_size + 1"), "the reference's"),
    "another precision": ("self.norm(hidden_BTD)", "self.norm(hidden_BTD).half().double()", ""),
    "refuses all": ("heads = values", "raise ValueError('no')\n        heads = values", "no"),
    "refuses the plain one": (
        "        heads = values",
        "        from ptw.errors import PtwError as Refusal\n"
        "        raise Refusal('hidden_act')\n"
        "        heads = values",
        "refused the family's plain configuration",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_answer_fails(name: str, judged_apart: Judged, text_of: Callable[[str], str]) -> None:
    old, new, said = SPOILT[name]
    text = text_of("llama")
    assert old in text
    outcome, report = judged_apart("llama", text.replace(old, new))
    assert not report.passed
    assert said in outcome.error + "".join(report.failures)
