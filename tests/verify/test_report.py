"""What the gate found reads the same as a table, a page, JSON and JUnit, whatever a port says in it."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from ptw.verify.cases import Family
from ptw.verify.explaining.explain import with_audit
from ptw.verify.reports.html import as_html, colour, place
from ptw.verify.reports.junit import as_junit
from ptw.verify.reports.report import (
    Audit,
    Change,
    Divergence,
    Effect,
    Heat,
    Measured,
    Note,
    Report,
    SubjectReport,
)
from ptw.verify.reports.text import show

HOSTILE = "<script>alert(1)</script> \x00\x1b[31m ]]> {{ 7 * 7 }} \"'&amp; \ud800"
VOID = {"meta", "rect", "br"}
PARTED = Divergence(
    case="03-numbers",
    changes=("rms_norm_eps",),
    module="model.layers.1.self_attn.q_norm",
    event="gives",
    after="model.layers.1.self_attn.q_proj",
    position=0,
    positions=81,
    length=81,
    relative=2.3e-3,
    layer="full_attention",
)
GIVEN = replace(PARTED, module="model.layers.0.self_attn.o_proj", event="given", layer="")
BAD = SubjectReport(
    "qwen3",
    measured=(
        Measured("logits", "relative", 4.8e-4, 1e-10, "03-numbers"),
        Measured("weights", "missing", 0.0, 0.0, "00-plain"),
        Measured("weights", "nudge", 1e-15, 1e-10, "01-odd-sizes"),
        Measured("precision", "layers", 1.02, 1.05, "00-plain"),
    ),
    failures=(f"00-plain: the port failed:\n{HOSTILE}",),
    refused=(f"02-switches: {HOSTILE}",),
    not_run=("checkpoint was not run: there are no real weights",),
    remarks=(f"AutoTokenizer on the source {HOSTILE}",),
    cases=3,
    by_case=(("logits", "relative", "03-numbers", 4.8e-4),),
    explained=(f"logits, case 03-numbers: {HOSTILE}", "logits, case 04: the same"),
    file="models/qwen3.py",
    effects=(
        Effect("rms_norm_eps", "0.001", "17-eps", 0.012, 0.0, 0.012, "ignored"),
        Effect("hidden_act", '"gelu"', "18-act", 0.4, 0.4, 2e-15, "followed"),
        Effect("vocab_size", "93", "19-vocab", None, None, 2e-15, "followed"),
    ),
    divergence=PARTED,
    heat=Heat("03-numbers", ("model.embed_tokens", "model.layers.0"), (0, 2), 3, ((0.0, 1e-15), (0.1, 1.0))),
    notes=(Note("error", "models/qwen3.py", 90, HOSTILE, "first divergence", ((90, HOSTILE), (91, ""))),),
    audit=Audit((("hidden_act", "18-act"),), (("pretraining_tp", "moves nothing"),), (f"hole {HOSTILE}",)),
)
GOOD = SubjectReport("llama", measured=(Measured("logits", "relative", 2e-15, 1e-10, "00-plain"),), cases=1)
LOOSER = Note("warning", "verifiers/mine.py", 3, "this change loosens the gate: verifiers/mine.py")
REPORT = Report(
    "practice",
    0,
    (GOOD, BAD),
    not_enforced=("no /proc of its own",),
    enforced=("no network",),
    versions=(("torch", "2.13"),),
    machine=(("processor", "2 cores"),),
    seconds=(("judging", 1.5),),
    change=Change("main", "0" * 40, ("qwen3",), loosened=(LOOSER,)),
)


class Page(HTMLParser):
    """Every element is closed, and what stands in the page as text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(report: Report) -> Page:
    page = Page()
    page.feed(as_html(report))
    assert page.open == []
    return page


def test_the_page_says_everything_and_fetches_and_runs_nothing() -> None:
    page = read(REPORT)
    for words in (
        *(
            "FAILED",
            "practice",
            "2.13",
            "2 cores",
            "layer 1, self_attn.q_norm",
            "rms_norm_eps = 0.001 is ignored",
        ),
        *("models/qwen3.py:90", "Divergence by module and position", "Configuration fields tried alone"),
        *("another shape", "Precision, speed and memory", "Refused by the port", "no network", "judging"),
        *(
            "no /proc of its own",
            "there are no real weights",
            "moves nothing",
            "this change loosens the gate",
            "1.02",
        ),
    ):
        assert words in page.text, words
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "srcset", "action", "data"):
                assert (value or "").startswith("#"), (tag, name, value)
    text = as_html(REPORT)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?:", text)


def test_what_a_port_says_is_text_on_the_page() -> None:
    page = read(REPORT)
    assert "alert(1)" in page.text
    assert "49" not in page.text.replace("2026", "")  # no template of the port's is run
    assert "{{ 7 * 7 }}" in page.text
    hostile = replace(BAD, name="<b>", file='" onload="x', measured=())
    assert not [tag for tag, _ in read(replace(REPORT, ports=(hostile,))).tags if tag == "script"]


def test_a_page_of_nothing_is_a_page() -> None:
    for report in (Report("acceptance", 7, ()), replace(REPORT, ports=(GOOD,), change=None)):
        assert read(report).text


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e-16, 1e-10, 1.0, 1e300, math.inf, math.nan])
def test_every_number_has_a_place_and_a_colour(value: float) -> None:
    assert 0 <= place(value) <= 100
    assert 0 <= colour(value) <= 8


def test_what_is_wrong_is_hot() -> None:
    assert colour(math.nan) == colour(math.inf) == colour(1.0) == 8
    assert colour(0.0) == colour(1e-15) == 0


def test_the_table_has_a_line_a_verifier_and_every_failure() -> None:
    entries = {(entry.verifier, entry.metric) for entry in BAD.worst}
    assert entries == {("logits", "relative"), ("weights", "nudge"), ("precision", "layers")}
    nan = Measured("weights", "missing", math.nan, 0.0, "00-plain")
    twice = replace(BAD, measured=(*BAD.measured, nan, replace(nan, metric="changed", value=1.0)))
    failed = [entry.metric for entry in twice.worst if entry.verifier == "weights"]
    assert failed == ["missing", "changed"]


def test_the_table_says_in_words_what_is_wrong() -> None:
    console = Console(file=io.StringIO(), width=80)
    show(REPORT, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"qwen3: {PARTED}\n" in said  # a line of words is one line, however narrow the log
    assert "(and 1 more)" in said
    assert "verifiers/mine.py:3: this change loosens the gate" in said
    assert said.splitlines()[-1].startswith("FAILED: 2 ports, 4 cases")


def test_a_divergence_blames_the_module_that_computes() -> None:
    assert "layer 1, self_attn.q_norm (full_attention): differs from position 0 on (81 of 81" in str(PARTED)
    assert str(GIVEN).startswith("layer 0, self_attn: what it gives to o_proj, after layer 1")
    assert replace(GIVEN, module="model.layers.0").culprit == "model"
    assert "the family's plain configuration" in str(replace(GIVEN, changes=()))


def test_json_is_plain_and_whole() -> None:
    values = json.loads(json.dumps(REPORT.as_json(), allow_nan=False))
    assert values["passed"] is False
    assert values["ports"][1]["divergence"]["module"] == PARTED.module
    assert [note["file"] for note in values["notes"]] == ["models/qwen3.py", "verifiers/mine.py"]
    assert values["versions"] == {"torch": "2.13"}
    odd = replace(GOOD, measured=(Measured("logits", "relative", math.nan, 1e-10, "x"),))
    assert json.dumps(replace(REPORT, ports=(odd,)).as_json(), allow_nan=False)


def test_junit_is_xml_with_a_failure_for_what_failed() -> None:
    root = ElementTree.fromstring(as_junit(REPORT).encode())
    suites = {suite.get("name"): suite for suite in root}
    assert root.get("failures") == "2"
    failed = {case.get("name") for case in suites["qwen3"] if case.find("failure") is not None}
    assert failed == {"logits", "explanation"}
    assert all(case.find("failure") is None for case in suites["llama"])
    assert "loosens" in "".join(suites["the gate itself"].itertext())
    assert root.get("tests") == str(sum(len(suite) for suite in root))


def test_what_no_case_reaches_fails_an_acceptance(tmp_path: Path) -> None:
    family = Family("llama", tmp_path)
    for told, holes in ((None, 1), ({"holes": []}, 0), ({"holes": ["field a: nothing moves it"]}, 1)):
        if told is not None:
            (tmp_path / "audit.json").write_text(json.dumps(told))
        assert with_audit(GOOD, family, "practice").passed
        found = with_audit(GOOD, family, "acceptance")
        assert len(found.failures) == len(found.audit.holes) == holes
        assert found.passed is not bool(holes)


def test_no_ports_pass_only_where_a_change_touches_none() -> None:
    assert not Report("practice", 0, ()).passed
    assert Report("practice", 0, (), change=Change("main", "0" * 40, ())).passed
    assert not Report("practice", 0, (), change=Change("main", "0" * 40, ("llama",))).passed
