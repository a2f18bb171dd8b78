"""The judge passes nothing that was not measured, and no number that is not one."""

import math
from pathlib import Path

import pytest
import torch

from ptw.errors import PtwError
from ptw.verify.judge import judge, read_verifiers
from ptw.verify.report import Measured, PortReport, Report
from ptw.workspace import rooms

GOOD = "LIMITS = {'size': 1.0}\ndef measure(ours, theirs):\n    return {'size': 0.0}\n"


def measured(value: float) -> Measured:
    return Measured("logits", "relative", value, 1e-10, "plain")


def test_nan_and_infinity_fail() -> None:
    assert measured(1e-10).passed
    assert not measured(math.nan).passed
    assert not measured(math.inf).passed


def test_nothing_to_check_is_not_a_pass() -> None:
    assert not Report("practice", 0, ()).passed
    assert not PortReport("llama").passed
    assert not judge("llama", [], read_verifiers(rooms.files(None, "verifiers"))).passed
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
    report = Report("practice", 0, (PortReport("llama", (measured(math.nan),), cases=1),))
    found = report.as_json()
    assert found["ports"][0]["measured"][0]["value"] == "nan"
    assert found["passed"] is False
    assert report.exit_code == 1


@pytest.mark.parametrize("file", rooms.files(None, "verifiers").values(), ids=lambda file: file.stem)
def test_a_stock_verifier_fails_on_nan(file: Path) -> None:
    """Each gives NaN, or counts it, when every number of the port is NaN."""
    (verifier,) = read_verifiers({file.stem: file})
    tokens, vocabulary = 6, 4
    theirs = {name: torch.rand(tokens, vocabulary) for name in ("logits", "decode.logits", "export.logits")}
    theirs |= {
        "nudged.a": torch.rand(vocabulary),
        "weights.a": torch.rand(3),
        "documents": torch.tensor([0, 0, 1, 1, 2, 2]),
        "changed_document": torch.tensor([1]),
        "generated": torch.zeros(2, 3, dtype=torch.int64),
        "generated.gap": torch.ones(2, 3),
    }
    ours = {
        name: torch.full_like(value, math.nan) for name, value in theirs.items() if value.is_floating_point()
    }
    ours |= {f"{kind}.dense.logits": ours["logits"] for kind in ("packed", "changed")}
    ours |= {"generated": theirs["generated"], "export.problems": torch.tensor(0)}
    values = verifier.measure(ours, theirs)
    assert set(values) == set(verifier.limits)
    assert any(not value <= verifier.limits[metric] for metric, value in values.items())
