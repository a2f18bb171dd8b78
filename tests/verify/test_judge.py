"""The judge passes nothing that was not measured, and no number that is not one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ptw.errors import PtwError
from ptw.ports.port import load_port
from ptw.verify import judge, subject
from ptw.verify.judge import Verifier, read_verifiers
from ptw.verify.port import trace
from ptw.verify.reports.report import Measured, Report, SubjectReport
from ptw.workspace import rooms
from tests.verify.conftest import VERIFIERS, Answered

GOOD = "LIMITS = {'size': 1.0}\ndef measure(ours, theirs):\n    return {'size': 0.0}\n"


def measured(value: float) -> Measured:
    return Measured("logits", "relative", value, 1e-10, "plain")


def test_nan_and_infinity_fail() -> None:
    assert measured(1e-10).passed
    assert not measured(math.nan).passed
    assert not measured(math.inf).passed


def test_nothing_to_check_is_not_a_pass() -> None:
    assert not Report("practice", 0, ()).passed
    assert not SubjectReport("llama").passed
    assert not judge.judge("llama", [], read_verifiers(rooms.files(None, "verifiers"))).passed
    with pytest.raises(PtwError, match="no verifiers"):
        read_verifiers({})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("{'size': 1.0}", "{}"), "LIMITS must name"),
        (GOOD.replace("LIMITS", "BOUNDS"), "LIMITS must name"),
        (GOOD.replace("measure", "weigh"), "no measure"),
        (GOOD.replace("1.0", "float('nan')"), "a limit is a number"),
        (GOOD.replace("1.0", "'1'"), "a limit is a number"),
    ],
)
def test_a_verifier_that_can_not_fail_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "lax.py"
    file.write_text(text)
    with pytest.raises(PtwError, match=said):
        read_verifiers({"lax": file})


def test_a_report_is_json_also_with_nan() -> None:
    report = Report("practice", 0, (SubjectReport("llama", (measured(math.nan),), cases=1),))
    found = report.as_json()
    assert found["ports"][0]["measured"][0]["value"] == "nan"
    assert found["passed"] is False
    assert report.exit_code == 1


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_stock_verifier_fails_on_nan(
    name: str,
    answered: dict[str, Answered],
    stock_verifiers: dict[str, Verifier],
    text_of: Callable[[str], str],
    write_port: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    """What a verifier asks of a real port, with NaN for every number of the port."""
    verifier, one = stock_verifiers[name], answered["llama"]
    case = one.case("plain")
    root = write_port("llama", text_of("llama"))
    port = load_port(root / "models" / "llama.py")
    asked = subject.probes({name: verifier.file})
    said = trace.trace(port, root, asked, one.family.given / case, tmp_path / "handed")
    numbers = {key for key, tensor in said.items() if tensor.is_floating_point() and tensor.numel()}
    if not numbers:
        pytest.skip("it looks at no numbers of the port")
    exported = f"{name}/exported."
    said |= {f"{exported}{key}": value for key, value in one.weights(case).items()}
    said |= {"/source": torch.frombuffer(bytearray(port.file.read_bytes()), dtype=torch.uint8)}
    theirs = one.theirs(case, reopened=True)
    limits = verifier.limits
    right = verifier.measure(judge.of_verifier(said, name), judge.of_verifier(theirs, name))
    assert right
    assert all(value <= limits[metric] for metric, value in right.items()), right
    said |= {key: torch.full_like(said[key], math.nan) for key in numbers}
    spoilt = verifier.measure(judge.of_verifier(said, name), judge.of_verifier(theirs, name))
    assert any(not value <= limits[metric] for metric, value in spoilt.items())
