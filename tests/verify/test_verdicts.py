"""A pass is kept for exactly what was verified; anything else is verified again."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from git import Actor, Repo

from ptw.errors import PtwError
from ptw.verify import sandbox, verdicts
from ptw.verify import verify as verifying
from ptw.verify.reports.report import Audit, Divergence, Effect, Heat, Measured, Note, Report, SubjectReport
from ptw.verify.verdicts import Verdicts, refuse_tracked
from ptw.verify.verify import Request, verify
from ptw.workspace import rooms

VERIFIERS = rooms.files(None, "verifiers")
PASS = SubjectReport(
    "llama",
    measured=(Measured("logits", "relative", 2e-15, 1e-10, "00-plain"),),
    cases=1,
    by_case=(("logits", "relative", "00-plain", 2e-15),),
    effects=(Effect("a", "1", "c", None, 0.5, 1e-15, "followed"),),
    heat=Heat("00-plain", ("x",), (0,), 1, ((0.0,),)),
    divergence=Divergence("c", ("a",), "m", "gives", "", 0, 1, 1, 0.0),
    notes=(Note("error", "f", 1, "t", "", ((1, "x"),)),),
    audit=Audit((("a", "c"),), (), ()),
)
PORT = "from ptw.nn.norm import RMSNorm\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sandbox, "namespaces", lambda: ("unshare",))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama.py").write_text(PORT)
    (tmp_path / "workspace.toml").write_text('[workspace]\nname = "w"\n')
    return tmp_path


def kept(root: Path, **changes: object) -> Verdicts:
    ways = {"verifiers": VERIFIERS, "level": "practice", "seed": 0, "device": "cpu"} | changes
    return Verdicts(root, **ways)  # type: ignore[arg-type]


def keep(workspace: Path, file: Path, report: SubjectReport, not_enforced: tuple[str, ...]) -> None:
    one = kept(workspace)
    one.keep(one.place("llama", file), report, not_enforced)


def test_a_pass_comes_back_as_it_was(workspace: Path) -> None:
    file = workspace / "models" / "llama.py"
    keep(workspace, file, PASS, ("no /proc",))
    found = kept(workspace).find("llama", file)
    assert found is not None
    assert found.report.kept
    assert replace(found.report, kept="") == PASS
    assert found.not_enforced == ("no /proc",)


def test_a_failure_is_not_kept(workspace: Path) -> None:
    file = workspace / "models" / "llama.py"
    keep(workspace, file, replace(PASS, failures=("it crashed",)), ())
    assert kept(workspace).find("llama", file) is None


def test_nothing_is_kept_where_a_port_could_have_written_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "namespaces", lambda: None)
    keep(workspace, workspace / "models" / "llama.py", PASS, ())
    assert not (workspace / ".ptw").exists()


def test_whatever_it_depends_on_makes_it_another(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workspace / "models" / "llama.py"
    keep(workspace, file, PASS, ())
    assert kept(workspace).find("llama", file)
    for changes in ({"level": "acceptance"}, {"seed": 1}, {"device": "cuda"}):
        assert kept(workspace, **changes).find("llama", file) is None
    (workspace / "mine.py").write_text("LIMITS = {}\n")
    more = VERIFIERS | {"mine": workspace / "mine.py"}
    assert kept(workspace, verifiers=more).find("llama", file) is None
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "versions", lambda: (("torch", "0"),))
        assert kept(workspace).find("llama", file) is None
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "namespaces", lambda: None)
        assert kept(workspace).find("llama", file) is None
    file.write_text(PORT + "# changed\n")
    assert kept(workspace).find("llama", file) is None
    file.write_text(PORT)
    assert kept(workspace).find("llama", file)
    (workspace / "small").mkdir()
    (workspace / "small" / "model.safetensors").write_bytes(b"weights")
    (workspace / "workspace.toml").write_text('[workspace]\nname = "w"\n[models.small]\nhf = "small"\n')
    assert kept(workspace).find("llama", file) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"report": {}, "not_enforced": []}', "null"])
def test_what_something_cut_short_is_no_verdict(workspace: Path, text: str) -> None:
    file = workspace / "models" / "llama.py"
    keep(workspace, file, PASS, ())
    (place,) = (workspace / verdicts.FOLDER / "verdicts").iterdir()
    place.write_text(text)
    assert kept(workspace).find("llama", file) is None


def test_a_failure_written_there_is_no_pass(workspace: Path) -> None:
    file = workspace / "models" / "llama.py"
    keep(workspace, file, PASS, ())
    (place,) = (workspace / verdicts.FOLDER / "verdicts").iterdir()
    place.write_text(place.read_text().replace('"value": 2e-15', '"value": NaN'))
    assert kept(workspace).find("llama", file) is None


def test_verdicts_that_came_with_the_repository_are_refused(workspace: Path) -> None:
    keep(workspace, workspace / "models" / "llama.py", PASS, ())
    refuse_tracked(workspace)
    repository = Repo.init(workspace)
    refuse_tracked(workspace)
    repository.git.add("--all", "--force")
    repository.index.commit("Pass", author=Actor("me", "m"), committer=Actor("me", "m"))
    repository.close()
    with pytest.raises(PtwError, match="anyone could have"):
        refuse_tracked(workspace)
    with pytest.raises(PtwError, match="anyone could have"):
        verify(workspace, Request(("llama",)))


def test_only_what_is_not_kept_is_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(root: Path, names: list[str], *_: object) -> Report:
        ran.append(list(names))
        return Report("practice", 0, tuple(replace(PASS, name=name) for name in names))

    monkeypatch.setattr(verifying, "_run", run)
    assert verify(workspace, Request(("llama", "qwen3"))).passed
    again = verify(workspace, Request(("qwen3", "llama")))
    assert [port.name for port in again.ports] == ["qwen3", "llama"]
    assert all(port.kept for port in again.ports)
    (workspace / "models" / "llama.py").write_text(PORT + "# changed\n")
    verify(workspace, Request(("llama", "qwen3")))
    verify(workspace, Request(("llama",), fresh=True))
    verify(workspace, Request(("llama",), level="acceptance", seed=1))
    assert ran == [["llama", "qwen3"], ["llama"], ["llama"], ["llama"]]


def test_a_pass_in_which_something_could_not_be_run_is_not_kept(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Report("practice", 0, (PASS,), not_enforced=("sharded: could not be run: no gloo",))
    monkeypatch.setattr(verifying, "_run", lambda *asked: lacking)
    assert verify(workspace, Request(("llama",))).passed
    assert kept(workspace).find("llama", workspace / "models" / "llama.py") is None


def test_an_unchanged_port_imports_nothing_heavy(workspace: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ptw.verify import sandbox, verify as v\n"
        "sandbox.namespaces = lambda: ('unshare',)\n"
        f"root = Path({str(workspace)!r})\n"
        "assert v._verdicts(root, v.Request()).find('llama', root / 'models' / 'llama.py')\n"
        "report = v.verify(root, v.Request(('llama',)))\n"
        "assert report.passed and report.ports[0].kept\n"
        "print(sorted({'torch', 'transformers', 'safetensors', 'ray'} & set(sys.modules)))"
    )
    keep(workspace, workspace / "models" / "llama.py", PASS, ())
    environment = os.environ | {"PYTHONPATH": str(Path(verdicts.__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr


def test_what_is_written_while_the_gate_runs_is_not_kept(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workspace / "models" / "llama.py"

    def run(root: Path, names: list[str], *_: object) -> Report:
        file.write_text(file.read_text() + "# written meanwhile\n")
        return Report("practice", 0, tuple(replace(PASS, name=name) for name in names))

    monkeypatch.setattr(verifying, "_run", run)
    assert verify(workspace, Request(["llama"])).passed
    assert kept(workspace).find("llama", file) is None
    monkeypatch.setattr(verifying, "_run", lambda *_: Report("practice", 0, (replace(PASS, name="llama"),)))
    assert verify(workspace, Request(["llama"])).passed
    assert kept(workspace).find("llama", file) is not None
