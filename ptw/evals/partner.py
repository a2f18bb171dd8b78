"""Which run must stand beside one that generates items by their codes, lest its figures flatter?"""

from __future__ import annotations

from collections.abc import Iterator

from ptw.errors import PtwError
from ptw.evals.cases import catalogue_of
from ptw.evals.evaluate import tokenizer_of
from ptw.runs.open import Opened
from ptw.runs.record import MODEL, RunRecord, list_runs, model_folder
from ptw.tokens.tokenizer import load_tokenizer
from ptw.workspace.manifest import Workspace

NONE_YET = (
    "no run over a token for each of its items stands beside {name}, though a full softmax is what to beat: "
    "train one on {dataset}, with a tokenizer of `items`"
)


def partner_of(workspace: Workspace, opened: Opened) -> str | None:
    """The newest run that scores every item, of the same events; None for a run that scores itself.

    PtwError where this run generates, and there is no other to hold it to.
    """
    if opened.plan is None or not tokenizer_of(opened).vocabularies:
        return None
    items = set(catalogue_of(tokenizer_of(opened)).names)
    for record in reversed(list(_alike(workspace, opened))):
        tokenizer = load_tokenizer(model_folder(record))
        if not tokenizer.vocabularies and set(catalogue_of(tokenizer).names) == items:
            return record.name
    raise PtwError(NONE_YET.format(name=opened.name, dataset=opened.plan["dataset"]))


def _alike(workspace: Workspace, opened: Opened) -> Iterator[RunRecord]:
    """Runs with a model that learnt from the same rows, with a token for each item."""
    plan = opened.plan or {}
    for record in list_runs(workspace.root):
        other = record.plan
        learnt = [one.get("datasets", {}).get(one.get("dataset")) for one in (plan, other)]
        itemised = (other.get("tokenizer") or {}).get("items") is not None
        if itemised and learnt[0] == learnt[1] and (record.folder / MODEL).is_dir():
            yield record
