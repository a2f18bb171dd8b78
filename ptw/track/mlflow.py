"""How does a run get into MLflow? Over its own client, into a server, a database or a folder."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

# read by the import; figures go to the tracker and nowhere else
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from ptw.runs.record import RunRecord
from ptw.track.follow import Known, Row, settings_of

STATES = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_METRICS, MOST_PARAMS = 1000, 100  # of a call
LONGEST_PARAM = 6000


class Mlflow:
    """One run of MLflow's."""

    def __init__(self, client: MlflowClient, id: str) -> None:
        self.client, self.id = client, id

    def known(self) -> Mapping[str, int]:
        names = self.client.get_run(self.id).data.metrics
        histories = {name: self.client.get_metric_history(self.id, name) for name in names}
        return {name: max(metric.step for metric in history) for name, history in histories.items()}

    def log(self, rows: Sequence[Row]) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for step, values in rows for name, value in values.items()]
        for start in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(self.id, metrics=metrics[start : start + MOST_METRICS])

    def close(self, state: str) -> None:
        self.client.set_terminated(self.id, STATES.get(state, "FAILED"))


def begin(target: str | bool, run: RunRecord, known: Known) -> Mlflow:
    """`target`: the address of a server or a database, or a folder of the workspace."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # it is tried again from here
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    address = str(target)
    if "://" not in address:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        address = str(run.folder.parent.parent / address)
    client = MlflowClient(tracking_uri=address)
    if known.id is not None:
        client.update_run(known.id, status="RUNNING")
        return Mlflow(client, known.id)
    opened = Mlflow(client, _created(client, run))
    params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in settings_of(run).items()]
    for start in range(0, len(params), MOST_PARAMS):
        client.log_batch(opened.id, params=params[start : start + MOST_PARAMS])
    return opened


def _created(client: MlflowClient, run: RunRecord) -> str:
    """In the experiment that is called as the recipe."""
    found: Any = client.get_experiment_by_name(run.recipe)
    experiment = client.create_experiment(run.recipe) if found is None else found.experiment_id
    made = client.create_run(experiment, run_name=run.name)
    if run.commit is not None:
        client.log_batch(made.info.run_id, tags=[RunTag("mlflow.source.git.commit", run.commit)])
    identifier: str = made.info.run_id
    return identifier
