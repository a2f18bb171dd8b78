"""Every artefact of a run says which tokenizer it has, and nothing goes on with another."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from ptw.errors import PtwError
from ptw.evals.evaluate import evaluate
from ptw.runs import record
from ptw.runs.export import export_run
from ptw.runs.open import open_named
from ptw.tokens import fingerprint
from ptw.tokens.declared import open_tokenizer
from ptw.train.checkpoint import STATE, complete
from ptw.train.facts import facts_of
from ptw.workspace.manifest import read
from tests.train.conftest import planned, trained


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the workspace of the run that nothing happened to."""
    root = Path(shutil.copytree(undisturbed.parents[1], tmp_path / "finished"))
    found = open_tokenizer(read(root), "items").fingerprint
    record.change(root / "runs" / undisturbed.name, fingerprint=found, state="done")
    return root


def swap_items(file: Path) -> None:
    first, second, *rest = file.read_text().splitlines()
    file.write_text("\n".join([second, first, *rest]) + "\n")


def swap_tokens(model: Path) -> None:
    """Two items of the exported tokenizer change places."""
    file = model / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["item3"], vocabulary["item4"] = vocabulary["item4"], vocabulary["item3"]
    file.write_text(json.dumps(values))


def test_every_artefact_has_the_fingerprint(finished: Path) -> None:
    (run,) = record.list_runs(finished)
    assert run.fingerprint == fingerprint.read(run.folder / record.MODEL)
    state = torch.load(complete(run.folder)[-1] / STATE, weights_only=True)
    assert run.fingerprint in json.dumps(state["feed"])
    assert facts_of(planned(finished))["fingerprint"] == run.fingerprint
    exported = export_run(read(finished), run.name, finished / "exported")
    assert fingerprint.read(exported) == run.fingerprint


def test_a_run_does_not_begin_with_other_ids_than_its_record_has(root: Path) -> None:
    plan = planned(root)
    record.change(plan.run_folder(), **facts_of(plan) | {"plan": plan.as_json()})
    swap_items(root / "data" / "items.jsonl")
    with pytest.raises(PtwError, match=r"tokenizer items gives other ids than when this run began"):
        trained(plan)
    assert record.read(plan.run_folder()).state == "failed"


def test_a_model_is_not_trained_on_with_other_ids(finished: Path) -> None:
    (run,) = record.list_runs(finished)
    plan = planned(finished, steps=1)
    model = dataclasses.replace(plan.model, config=None, hf=str(run.folder / record.MODEL))
    assert trained(dataclasses.replace(plan, model=model)).state == "done"
    swap_items(finished / "data" / "items.jsonl")
    plan = dataclasses.replace(planned(finished, steps=1), model=model)
    with pytest.raises(
        PtwError, match=r"other ids than model tiny was trained with \(token 'item0' is 3 there"
    ):
        trained(plan)


def test_export_and_eval_refuse_a_changed_tokenizer(finished: Path) -> None:
    workspace, (run,) = read(finished), record.list_runs(finished)
    swap_tokens(run.folder / record.MODEL)
    for asked in (
        lambda: export_run(workspace, run.name, finished / "exported"),
        lambda: evaluate(workspace, open_named(workspace, run.name)),
    ):
        with pytest.raises(PtwError, match=r"not the one that was saved there: other vocabulary; restore"):
            asked()
    (run.folder / record.MODEL / fingerprint.FILE).unlink()
    with pytest.raises(PtwError, match=rf"not the one of the run.*`ptw verify {run.name}` shows where"):
        export_run(workspace, run.name, finished / "exported")
    assert not (finished / "exported").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"fingerprint": 1}'])
def test_a_broken_fingerprint_is_named(text: str, finished: Path) -> None:
    (run,) = record.list_runs(finished)
    (run.folder / record.MODEL / fingerprint.FILE).write_text(text)
    with pytest.raises(PtwError, match=r"tokenizer_fingerprint\.json: cannot be read"):
        export_run(read(finished), run.name, finished / "exported")
