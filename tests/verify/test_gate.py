"""The gate as a whole: a file in a room is verified, a wrong one fails, a stock verifier stays."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ptw.errors import PtwError
from ptw.verify import cases
from ptw.verify.choose import choose
from ptw.verify.gate import Level, run_gates
from ptw.verify.judge import read_verifiers
from ptw.workspace import rooms

ROOT = Path(__file__).resolve().parents[2]
SECOND = Path(__file__).with_name("rewrites") / "llama.py"
MISTRAL = (  # what llama lacks: the same file with a window in every layer
    ("mlp_bias: bool = False", "mlp_bias: bool = False\n    sliding_window: int | None = 4096"),
    ("scale=self.head_dim**-0.5", "scale=self.head_dim**-0.5, window=self.window"),
    (
        "self.head_dim = config.head_dim",
        "self.head_dim = config.head_dim\n        self.window = config.sliding_window",
    ),
    ("pretraining_tp", "unused"),
)
EXTRA = '''"""The last token of all is the reference's."""
LIMITS = {"last": 1e-10}
def probe(subject, inputs):
    return {"last": subject.exact().logits(inputs["ids"][:9])[-1]}
def measure(ours, theirs):
    return {"last": (ours["last"] - theirs["last"]).abs().max().item()}
'''
LAX = "LIMITS = {'relative': 1e9}\ndef measure(ours, theirs):\n    return {'relative': 0.0}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace that shares the repository's cache of cases and answers."""
    root = tmp_path / "catalogue"
    for room in ("models", "verifiers"):
        (root / room).mkdir(parents=True)
    (ROOT / ".ptw").mkdir(exist_ok=True)
    (root / ".ptw").symlink_to(ROOT / ".ptw")
    (root / "workspace.toml").write_text(
        '[workspace]\nname = "catalogue"\n\n[models.scratch]\nconfig = { model_type = "qwen3" }\n'
    )
    return root


# refusals that are right: HF reads what its config class does not declare; attention that is not causal;
# a layer that is to have a window where there is none
REFUSED = {
    "gpt_neox": "head_dim",
    "gemma3_text": "use_bidirectional_attention",
    "qwen2_moe": "sliding_attention",
}
UNCONCERNED = {"gpt2": {"adapters"}}  # its blocks are made of Conv1D: no linear layer to adapt
SLOW = [port for port in rooms.files(None, "models") if port != "llama"]


@pytest.mark.parametrize("name", ["llama", *(pytest.param(port, marks=pytest.mark.slow) for port in SLOW)])
def test_a_stock_port_passes(name: str, workspace: Path) -> None:
    report = run_gates(workspace, [name])
    (port,) = report.ports
    assert report.passed, port.failures
    verifiers = read_verifiers(rooms.files(None, "verifiers"))
    practised = {verifier.name for verifier in verifiers if "practice" in verifier.levels}
    idle = UNCONCERNED.get(name, set())
    assert {entry.verifier for entry in port.measured} == practised - idle
    assert {text.split()[0] for text in port.not_run} == idle
    assert all(name in REFUSED and REFUSED[name] in text for text in port.refused)
    assert max(entry.value for entry in port.measured if entry.metric == "relative") < 1e-13


@pytest.mark.slow
def test_a_file_in_a_room_is_all_that_a_port_or_a_verifier_needs(
    workspace: Path, text_of: Callable[[str], str]
) -> None:
    text = text_of("llama")
    for old, new in MISTRAL:
        assert old in text
        text = text.replace(old, new)
    (workspace / "models" / "mistral.py").write_text(text)
    (workspace / "verifiers" / "last.py").write_text(EXTRA)
    (workspace / "verifiers" / "logits.py").write_text(LAX)
    report = run_gates(workspace, ["mistral"])
    (port,) = report.ports
    assert report.passed, port.failures
    limits = {(entry.verifier, entry.metric): entry.limit for entry in port.measured}
    assert limits["last", "last"] == 1e-10
    assert limits["logits", "relative"] == 1e-10  # a stock verifier can't be loosened


@pytest.mark.slow
def test_a_wrong_port_fails_and_the_report_says_where(workspace: Path, text_of: Callable[[str], str]) -> None:
    wrong = text_of("llama").replace("config.rms_norm_eps)", "1.01 * config.rms_norm_eps)")
    (workspace / "models" / "llama.py").write_text(wrong)
    report = run_gates(workspace, ["llama"])
    assert report.exit_code == 1
    failed = {entry.verifier for entry in report.ports[0].measured if not entry.passed}
    assert "logits" in failed


@pytest.mark.slow
def test_a_refusal_is_reported_and_is_no_pass_of_the_field(
    workspace: Path, text_of: Callable[[str], str]
) -> None:
    picky = (
        text_of("llama")
        .replace("from ptw.nn.activation", "from ptw.errors import PtwError\nfrom ptw.nn.activation", 1)
        .replace(
            "        heads = values",
            "        if values.get('hidden_act', 'silu') != 'silu':\n"
            "            raise PtwError('config.json: hidden_act is not implemented')\n"
            "        heads = values",
            1,
        )
    )
    (workspace / "models" / "llama.py").write_text(picky)
    report = run_gates(workspace, ["llama"])
    assert report.passed, report.ports[0].failures
    assert len(report.ports[0].refused) >= 3
    assert all("hidden_act" in entry for entry in report.ports[0].refused)


def test_names_are_ports_or_models_of_the_workspace(workspace: Path) -> None:
    assert list(choose(workspace, ["scratch"])) == ["qwen3"]
    assert set(choose(workspace, [])) == set(rooms.files(None, "models"))
    with pytest.raises(PtwError, match="neither a port nor a model"):
        choose(workspace, ["nemo"])


@pytest.mark.slow
def test_a_port_of_no_family_has_no_cases_and_fails(workspace: Path, text_of: Callable[[str], str]) -> None:
    (workspace / "models" / "llamarama.py").write_text(text_of("llama"))
    report = run_gates(workspace, ["llamarama"])
    assert not report.passed
    assert "llamarama" in report.ports[0].failures[0]


@pytest.mark.slow
def test_an_acceptance_is_drawn_afresh_and_can_be_drawn_again(workspace: Path, tmp_path: Path) -> None:
    first = run_gates(workspace, ["llama"], level="acceptance")
    assert first.passed, (first.seed, first.ports[0].failures)
    digests = []
    reference = cases.Reference()
    for name, seed in (("a", first.seed), ("b", first.seed), ("c", first.seed + 1)):
        (family,) = cases.draw(["llama"], "acceptance", seed, tmp_path / name, tmp_path / "none", reference)
        digests.append(cases.digest("", family.folder))
    reference.close()
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["practice", "acceptance"])
def test_a_second_honest_implementation_is_accepted(workspace: Path, level: Level) -> None:
    (workspace / "models" / "llama.py").write_text(SECOND.read_text())
    report = run_gates(workspace, ["llama"], level=level)
    assert report.passed, (report.seed, report.ports[0].failures)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_right_ports_pass_whatever_is_drawn(workspace: Path, seed: int) -> None:
    report = run_gates(workspace, level="acceptance", seed=seed)
    assert report.passed, [port.failures for port in report.ports]
