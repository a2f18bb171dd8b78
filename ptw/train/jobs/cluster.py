"""How is a run handed to a cluster by Ray's Jobs API, asked after, and told to stop?"""

import json
import logging
import re
import secrets
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.runs import origin, record
from ptw.train.connect import demand_reachable
from ptw.train.jobs.pack import code_digest, pack
from ptw.train.jobs.place import STOP, Mirror, store_of
from ptw.train.plan import Plan

ORDER = "job.json"  # in the job's working folder
ENTRYPOINT = "python -m ptw.train.jobs.head"
LOG_LINES = 15
WAITS_SECONDS = (2.0, 4.0, 8.0, 16.0)  # between tries to hand a run over; then it is said


def submit(found: record.RunRecord) -> record.RunRecord:
    """Hand the run over; the record then says to whom. PtwError when the cluster takes no jobs."""
    plan = Plan.from_json(found.plan)
    try:
        job = _submitted(found, plan)
    except PtwError as error:
        record.change(found.folder, state="failed", message=str(error))
        raise
    return record.change(found.folder, state="running", message=None, plan=plan.as_json(), job=job)


def _submitted(found: record.RunRecord, plan: Plan) -> dict[str, Any]:
    cluster = plan.cluster
    assert cluster.address is not None
    assert cluster.storage is not None
    name = re.sub(r"[^\w.-]", "-", plan.root.name)
    key = found.job["key"] if found.job else f"{name}/{found.name}-{secrets.token_hex(4)}"
    job = {
        "cluster": cluster.name,
        "address": cluster.address,
        "storage": cluster.storage,
        "key": key,
        "id": f"ptw-{found.name}-{secrets.token_hex(4)}",
    }
    client = _client(cluster.address)
    store = store_of(cluster.storage, key, found.name)
    store.remove(STOP)
    if found.job is None and (found.folder / record.CHECKPOINTS).is_dir():
        Mirror(found.folder, store).send()  # it began here
    with tempfile.TemporaryDirectory(prefix="ptw-job-") as packed:
        for secret in pack(plan, Path(packed)):
            sys.stderr.write(f"{secret} looks like a secret and is not sent\n")
        order = {"name": found.name, "record": found.as_json(), "job": job, "folder": cluster.folder}
        order |= {"versions": origin.versions(), "code": code_digest()}
        (Path(packed) / ORDER).write_text(json.dumps(order), encoding="utf-8")
        _hand_over(client, job, packed)
    return job


def _hand_over(client: Any, job: dict[str, Any], packed: str) -> None:
    """Again after a fault that may pass: a head that has just begun has no agent for jobs yet."""
    for wait in (*WAITS_SECONDS, None):
        try:
            client.submit_job(
                entrypoint=ENTRYPOINT, submission_id=job["id"], runtime_env={"working_dir": packed}
            )
            return
        except Exception as error:  # requests, Ray and the cluster have exceptions of their own
            with suppress(RuntimeError):
                client.get_job_info(job["id"])
                return  # only the answer was lost
            if wait is None:
                raise PtwError(f"cluster {job['cluster']}: it takes no job: {_first_line(error)}") from error
            time.sleep(wait)


def why_ended(job: dict[str, Any]) -> str | None:
    """None while the job is alive, else in which way it ended; PtwError when the cluster can't be asked."""
    client = _client(job["address"])
    try:
        info = client.get_job_info(job["id"])
    except RuntimeError:
        return f"cluster {job['cluster']} knows its job {job['id']} no more"
    if not info.status.is_terminal():
        return None
    log = client.get_job_logs(job["id"]).strip().splitlines()[-LOG_LINES:]
    return "\n  ".join([f"its job ended ({info.status}): {info.message or ''}", *log])


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    demand_reachable(address)
    try:
        client = JobSubmissionClient(address)
    except Exception as error:  # requests, Ray and the cluster have exceptions of their own
        raise PtwError(
            f"{address}: no Ray takes jobs there: {_first_line(error)}; it must be the dashboard's address "
            "(http://head:8265), of a Ray with ray[default], and RAY_AUTH_MODE must be as the cluster has it"
        ) from error
    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of every upload
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.ERROR)
    return client


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
