"""Who carries out a run: this machine, or a cluster that takes jobs?"""

import sys
from collections.abc import Mapping

from ptw.errors import PtwError
from ptw.runs import record
from ptw.train import launch
from ptw.train.jobs import follow
from ptw.train.jobs.cluster import submit
from ptw.train.plan import Plan
from ptw.workspace.manifest import Workspace


def train(workspace: Workspace, recipe: str, overrides: Mapping[str, str], resume: bool, detach: bool) -> str:
    """Run a recipe to its end, or hand it over and leave it; the run's name."""
    if resume:
        _refresh(workspace, recipe)
    entry = workspace.recipes.get(recipe)
    cluster = workspace.clusters.get(entry.cluster) if entry is not None and entry.cluster else None
    if detach and not (cluster and cluster.takes_jobs):
        raise PtwError(
            f"--detach: recipe {recipe} names no cluster that takes jobs, so this process drives its run; "
            "give it a cluster with the address of a Jobs API (http://head:8265)"
        )
    found = launch.begun(workspace, recipe, overrides, resume)
    if not Plan.from_json(found.plan).cluster.takes_jobs:
        return launch.carry_out(follow.bring_home(found) if found.job else found).name
    found = submit(found)
    if not detach:
        return follow.follow(found).name
    sys.stderr.write(f"{found.name} is handed over; `ptw runs follow {found.name}` shows it\n")
    return found.name


def _refresh(workspace: Workspace, recipe: str) -> None:
    """PtwError where the run that would go on still trains on its cluster."""
    for found in record.list_runs(workspace.root):
        if found.recipe == recipe and found.job is not None:
            now = follow.refreshed(found)
            if now.state == "running":
                raise PtwError(
                    f"{now.name} trains at {found.job['cluster']}; `ptw runs follow {now.name}` shows it, "
                    f"`ptw runs stop {now.name}` stops it"
                )
