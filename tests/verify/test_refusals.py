"""A port may refuse by name what it lacks, and not refuse its way past the cases that show its mistakes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.errors import PtwError
from ptw.verify import refusals
from ptw.verify.drawing.configurations import configurations
from ptw.verify.drawing.trials import Trials
from ptw.verify.exact import exact
from ptw.verify.judge import CaseFiles
from ptw.verify.reference import hf


def case(folder: Path, name: str, changes: dict[str, Any], kind: str = "field", **more: Any) -> CaseFiles:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"name": name, "kind": kind, "changes": changes, **more}))
    return CaseFiles(
        name, folder, file, (folder,), folder / "answer", folder / "reopened", folder / "port.py"
    )


def test_what_is_named_is_a_rightful_refusal(tmp_path: Path) -> None:
    message = "config.json: mlp_bias = True is not implemented"
    assert refusals.rightful(case(tmp_path, "a", {"mlp_bias": True}), message) == message
    with pytest.raises(PtwError, match="none of its changes"):
        refusals.rightful(case(tmp_path, "b", {"attention_bias": True}), message)
    with pytest.raises(PtwError, match="as no port may"):
        refusals.rightful(case(tmp_path, "c", {"mlp_bias": True}, required=True), message)


def test_a_case_of_many_fields_is_not_refused_for_one_that_is_taken_alone(tmp_path: Path) -> None:
    many = case(tmp_path, "everything", {"mlp_bias": True, "head_dim": 3}, "thorough")
    alone = case(tmp_path, "field", {"mlp_bias": True})
    said = {"everything": (many, "head_dim = 3 is not implemented")}
    (failure,) = refusals.evasions(said | {"field": (alone, "mlp_bias = True is not implemented")})
    assert "it refused head_dim, which it takes where nothing else is changed" in failure
    assert refusals.evasions({"field": (alone, "mlp_bias"), "everything": (many, "mlp_bias")}) == []


def test_what_nobody_can_verify_must_be_refused(tmp_path: Path) -> None:
    wanted = case(tmp_path, "a", {"reorder": True}, unverifiable=True)
    with pytest.raises(PtwError, match="it takes reorder = True"):
        refusals.demand(wanted)
    refusals.demand(case(tmp_path, "b", {"reorder": True}))


def test_what_must_be_refused_may_also_fail_for_its_shapes(tmp_path: Path) -> None:
    wanted = case(tmp_path, "a", {"num_attention_heads": 12}, unverifiable=True)
    assert refusals.is_turned_down(wanted, "in load\nptw.errors.PtwError: q_proj gives (64, 64)")
    assert not refusals.is_turned_down(wanted, "KeyError: 12")
    assert not refusals.is_turned_down(case(tmp_path, "b", {"head_dim": 8}), "ptw.errors.PtwError: q_proj")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 13])
def test_a_size_that_fits_only_with_another_is_found_in_every_draw(seed: int) -> None:
    """Of helium hidden_size = num_attention_heads * head_dim: no one of the three can change alone."""
    draw = random.Random(f"helium:{seed}")
    trials = Trials(hf.config_class("helium"), draw.getrandbits(48) | 1)
    with exact(), torch.no_grad():
        found = configurations(trials, draw, fresh=True)
    assert not [one.name for one in found.configurations if one.refused]


def test_a_field_that_the_reference_only_runs_inexactly_has_such_a_case() -> None:
    trials = Trials(hf.config_class("gpt2"), 1)
    with exact(), torch.no_grad():
        found = configurations(trials, random.Random(0), fresh=False)
    assert [one.fields for one in found.configurations if one.refused] == [("reorder_and_upcast_attn",)]


def test_a_window_in_which_the_reference_contradicts_itself_is_seen() -> None:
    trials = Trials(hf.config_class("mistral"), 1)
    values = {"vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    values |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8}
    with exact(), torch.no_grad():
        assert trials.decodes(values)
        assert not trials.decodes(values | {"sliding_window": 1})
