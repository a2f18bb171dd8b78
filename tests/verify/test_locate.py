"""A wrong port is told by module, position, field and line where it parts from its reference."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.verify.cases import Reference
from ptw.verify.explaining import effects, lines, locate
from ptw.verify.reports.report import Divergence, Measured, SubjectReport
from ptw.workspace import rooms

PORTS = rooms.files(None, "models")
BLOCK = "model.layers.0"
TRACED = (  # port, text, wrong text, the case, the module, what it gives or is given, the line's text
    (
        *("qwen3", "RMSNorm(config.head_dim, config.rms_norm_eps)", "RMSNorm(config.head_dim, 1e-6)"),
        *("numbers", f"{BLOCK}.self_attn.q_norm", "gives", "self.q_norm = "),
    ),
    (
        *("llama", "rotate(self.k_proj(hidden_BTD).view(heads))", "self.k_proj(hidden_BTD).view(heads)"),
        *("plain", f"{BLOCK}.self_attn.o_proj", "given", "self.o_proj("),
    ),
    ("llama", "hidden_BTD + self.mlp(", "self.mlp(", "plain", BLOCK, "gives", "def forward"),
    (
        *(
            "llama",
            "self.activation(self.gate_proj(hidden_BTD)) * self.up",
            "self.gate_proj(hidden_BTD) * self.up",
        ),
        *("plain", f"{BLOCK}.mlp.down_proj", "given", "self.down_proj("),
    ),
    (
        *("qwen3", "window=self.window", "window=self.window and self.window + 1"),
        *("windows", f"{BLOCK}.self_attn.o_proj", "given", "self.o_proj("),
    ),
)
Event = tuple[int, str, str, str]


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    one = Reference()
    yield one
    one.close()


@pytest.fixture
def traced(
    answered: dict[str, Any], reference: Reference, tmp_path: Path
) -> Callable[[str, str, str], locate.Traced]:
    """The real thing: the port's text in its sandbox, then the reference in its process."""

    def run(port: str, text: str, case: str) -> locate.Traced:
        family = answered[port].family
        name = answered[port].case(case)
        (tmp_path / "port.py").write_text(text)
        given, drawn = {name: family.given / name}, {name: family.drawn(name)}
        (found,) = locate.locate(port, tmp_path / "port.py", given, drawn, tmp_path / "located", reference)
        return found

    return run


@pytest.mark.parametrize("wrong", TRACED, ids=[f"{one[0]}-{one[4]}-{one[5]}" for one in TRACED])
def test_the_first_module_that_differs_is_named_and_its_line(
    wrong: tuple[str, ...], traced: Callable[[str, str, str], locate.Traced], text_of: Callable[[str], str]
) -> None:
    port, right, mistake, case, module, event, line = wrong
    assert right in text_of(port)
    text = text_of(port).replace(right, mistake, 1)
    found = traced(port, text, case)
    assert found.divergence is not None
    assert (found.divergence.module, found.divergence.event) == (module, event)
    if case == "windows":  # a token sees one more than it may as soon as the window is full
        assert found.divergence.position > 0
    (note,) = lines.notes("models/x.py", text, found.divergence, (), ())
    assert line in dict(note.excerpt)[note.line]
    assert mistake in "\n".join(words for _, words in note.excerpt)


def test_a_right_port_parts_nowhere(
    traced: Callable[[str, str, str], locate.Traced], text_of: Callable[[str], str]
) -> None:
    found = traced("qwen3", text_of("qwen3"), "plain")
    assert found.divergence is None
    assert found.heat is not None
    assert {"model.embed_tokens", f"{BLOCK}.self_attn.q_norm", f"{BLOCK}.mlp", "model.norm", "logits"} <= {
        *found.heat.rows
    }
    assert max(max(values) for values in found.heat.values) < 1e-12


def events(**changes: torch.Tensor) -> dict[Event, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(1, 6, 4, dtype=torch.float64)
    found = {
        (0, "gives", "0", "a"): hidden,
        (0, "given", "0", "b"): hidden.clone(),
        (0, "gives", "0", "b"): hidden.clone(),
        (0, "gives", "0", "logits"): hidden[0].clone(),
    }
    for key, value in changes.items():
        event, _, name = key.partition("_")
        found[0, event, "0", name] = value
    return found


def compared(ours: dict[Event, torch.Tensor], theirs: dict[Event, torch.Tensor]) -> Divergence | None:
    drawn, config = {"changes": {"eps": 1}}, {"layer_types": ["sliding_attention"]}
    return locate.compare("case", drawn, config, [6], ours, theirs).divergence


def test_the_first_in_the_order_of_the_reference_counts() -> None:
    wrong = events()[0, "gives", "0", "b"].clone()
    wrong[0, 4:] += 1e-3
    found = compared(events(gives_b=wrong), events())
    assert found is not None
    assert (found.module, found.event, found.after) == ("b", "gives", "a")
    assert (found.position, found.positions, found.length, found.changes) == (4, 2, 6, ("eps",))


def test_nan_differs_and_rounding_does_not() -> None:
    expected = events()
    almost = expected[0, "gives", "0", "a"] * (1 + 1e-15)
    assert compared(events(gives_a=almost), expected) is None
    broken = expected[0, "gives", "0", "a"].clone()
    broken[0, 2] = float("nan")
    found = compared(events(gives_a=broken), expected)
    assert found is not None
    assert (found.module, found.position) == ("a", 2)


def test_what_only_one_has_is_passed_over_and_other_shapes_are_flattened() -> None:
    expected = events()
    flat = expected[0, "gives", "0", "a"].reshape(6, 4)
    ours = events(gives_a=flat, gives_mine=torch.ones(3))
    assert compared(ours, expected | {(0, "gives", "0", "theirs"): torch.ones(2)}) is None
    heads = torch.randn(1, 6, 2, 4, dtype=torch.float64)
    error_T = locate.relative(heads.transpose(1, 2), heads.reshape(6, 8), 6)
    assert error_T is not None  # heads before positions, or positions first
    assert locate.relative(torch.ones(3), torch.ones(4), 6) is None


def test_cases_that_change_least_are_traced_first() -> None:
    drawn: dict[str, Any] = {
        "00-plain": {"changes": {}},
        "03-numbers": {"changes": {"eps": 1, "theta": 2}},
        "17-eps": {"changes": {"eps": 1}},
        "18-theta": {"changes": {"theta": 1}},
        "19-act": {"changes": {"act": "gelu"}},
    }
    measured = (Measured("logits", "relative", 1.0, 1e-10, "03-numbers"),)
    values = {"00-plain": 1e-15, "03-numbers": 1.0, "17-eps": 1e-3, "18-theta": 1e-14, "19-act": float("nan")}
    by_case = tuple(("logits", "relative", name, value) for name, value in values.items())
    report = SubjectReport("x", measured, by_case=by_case)
    assert locate.to_trace(report, drawn) == ["17-eps", "19-act", "03-numbers"]
    right = SubjectReport(
        "x", (Measured("logits", "relative", 1e-14, 1e-10, "18-theta"),), by_case=by_case[:1] + by_case[3:4]
    )
    assert locate.to_trace(right, drawn) == ["18-theta"]
    assert locate.to_trace(SubjectReport("x"), drawn) == []


def said(ours: float, theirs: float) -> effects.Said:
    torch.manual_seed(0)
    base, other = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    return {"v/logits": base + ours * other}, {"v/logits": base + theirs * other}


def test_a_field_that_is_ignored_is_told_from_one_that_is_followed() -> None:
    drawn: dict[str, Any] = {
        "10-base": {"name": "field-base", "kind": "field", "changes": {}},
        "11-eps": {"name": "eps", "kind": "field", "changes": {"rms_norm_eps": 0.1}},
        "12-window": {"name": "window", "kind": "field", "changes": {"sliding_window": 24, "use": True}},
        "13-act": {"name": "act", "kind": "field", "changes": {"hidden_act": "gelu"}},
        "14-no": {"name": "no", "kind": "field", "changes": {"bidirectional": True}},
        "00-plain": {"name": "plain", "kind": "thorough", "changes": {}},
    }
    spoken = {
        "10-base": said(0, 0),
        "11-eps": said(0, 0.1),
        "12-window": said(0.2, 0.2),
        "13-act": said(0.1, 0.3),
        "00-plain": said(0, 1),
    }
    found = {effect.field: effect for effect in effects.effects(spoken, drawn, frozenset({"14-no"}))}
    assert {field: effect.verdict for field, effect in found.items()} == {
        "rms_norm_eps": "ignored",
        "sliding_window, use": "followed",
        "hidden_act": "wrong",
        "bidirectional": "refused",
    }
    assert str(found["rms_norm_eps"]).startswith(
        "rms_norm_eps = 0.1 is ignored: it moves the reference by 0."
    )
    assert found["sliding_window, use"].value == "24, true"


@pytest.mark.parametrize("port", PORTS)
def test_every_module_of_a_port_has_a_line(port: str) -> None:
    text = PORTS[port].read_text()
    tree, rows = lines.parsed(text), text.splitlines()
    names = {
        node.targets[0].attr
        for node in lines.ast.walk(tree)
        if isinstance(node, lines.ast.Assign)
        and isinstance(node.targets[0], lines.ast.Attribute)
        and isinstance(node.value, lines.ast.Call)
    }
    own = next(name for name in ("model", "gpt_neox", "transformer") if name in names)
    layers = {name for name in ("layers", "h") if name in names}
    assert layers, names
    for name in layers:
        line = lines.line_of(tree, f"{own}.{name}.0", f"{own}.{name}.0")
        assert "def forward" in rows[line - 1]


def test_lines_of_fields_tracebacks_and_keys() -> None:
    text = PORTS["llama"].read_text()
    tree, rows = lines.parsed(text), text.splitlines()
    assert "rms_norm_eps" in rows[lines.line_of_field(tree, "rms_norm_eps") - 1]
    assert "class Config" in rows[lines.line_of_field(tree, "unheard_of") - 1]
    told = 'Traceback:\n  File "/room/workspace/models/llama.py", line 60, in forward\nValueError: no'
    assert lines.line_of_words(tree, told, "llama.py") == 60
    assert (
        "def weights"
        in rows[lines.line_of_words(tree, "weights, case a: the export lacks k", "llama.py") - 1]
    )
    (note,) = lines.notes("models/llama.py", text, None, (), ["logits relative is 1, the limit 0"])
    assert "class Model" in rows[note.line - 1]
    assert lines.notes("models/x.py", "def (", None, (), ["it failed"])[0].line == 1
    assert lines.notes("models/x.py", "", None, (), ["it failed"])[0].excerpt == ()
