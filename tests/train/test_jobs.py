"""A run that is handed to a cluster of several nodes comes back as the one that is trained here."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ptw.runs import lines, record
from tests.train.cluster import Cluster, running
from tests.train.conftest import curve_of, environment, samples_of, steps_of
from tests.train.test_launch import processes_of, until

RUN = Path("runs") / "next-001"
PATIENCE_SECONDS = 400
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Of a real S3 server on this machine; what is started later finds it in its environment."""
    server = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
    serving = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    serving.start()
    host, port = serving.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("runs")
        yield "s3://runs/ptw"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    serving.stop()


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Cluster]:
    with running(2, {**environment(SLEEP="0.6")}) as found:
        yield found


def declare(root: Path, cluster: Cluster, storage: str, folder: Path | None) -> None:
    """The recipe `next` trains on this cluster."""
    text = (
        (root / "workspace.toml")
        .read_text()
        .replace('dataset = "views"\n', 'dataset = "views"\ncluster = "gpus"\n', 1)
    )
    where = "" if folder is None else f'folder = "{folder}"\n'
    text += f'\n[clusters.gpus]\naddress = "{cluster.address}"\nstorage = "{storage}"\n{where}'
    (root / "workspace.toml").write_text(text)


def ptw(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ptw", *arguments],
        cwd=root,
        env=environment(RAY_AUTH_MODE="disabled"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out, err


def assert_like(folder: Path, undisturbed: Path) -> None:
    """The curve, the samples and the model, bit for bit."""
    assert record.read(folder).state == "done"
    assert curve_of(folder) == curve_of(undisturbed)
    assert samples_of(folder) == samples_of(undisturbed)
    weights = Path(record.MODEL) / "model.safetensors"
    assert (folder / weights).read_bytes() == (undisturbed / weights).read_bytes()


def test_a_lost_node_costs_nothing(
    root: Path, tmp_path: Path, cluster: Cluster, bucket: str, undisturbed: Path
) -> None:
    """Its storage is an object store, which no worker sees."""
    declare(root, cluster, bucket, tmp_path / "shared")
    training = ptw(root, "train", "next")
    until(12, root / RUN, PATIENCE_SECONDS)
    cluster.node_of(processes_of(root / RUN)[0]).lose()
    out, err = said(training)
    assert out == "next-001\n"
    starts = [e["start"][1] for e in lines.read(root / RUN / record.EVENTS)[0] if "start" in e]
    # what is seen here is a little older than what has happened there
    assert len(starts) == 2
    assert starts[1] in (10, 15, 20, 25)
    assert "step" in err
    assert_like(root / RUN, undisturbed)
    out, _ = said(ptw(root, "export", "next-001", "--to", "exported"))
    assert (root / "exported" / "config.json").is_file()


def test_a_run_is_left_stopped_and_gone_on_with(
    root: Path, tmp_path: Path, cluster: Cluster, undisturbed: Path
) -> None:
    """Its storage is a folder that all see; Ctrl-C leaves it, `runs stop` ends it."""
    declare(root, cluster, str(tmp_path / "shared"), None)
    out, err = said(ptw(root, "train", "next", "--detach", "--set", "sleep=1.5"))
    assert out == "next-001\n"
    assert "ptw runs follow next-001" in err
    following = ptw(root, "runs", "follow", "next-001")
    until(5, root / RUN, PATIENCE_SECONDS)
    following.send_signal(signal.SIGINT)
    _, err = said(following, 130)
    assert "`ptw runs stop next-001` stops it" in err
    assert '"running"' in said(ptw(root, "runs", "--json"))[0]
    said(ptw(root, "train", "next", "--resume"), 1)  # it is still there
    said(ptw(root, "runs", "stop", "next-001"))
    _, err = said(ptw(root, "runs", "follow", "next-001"), 130)
    assert "ptw train next --resume" in err
    assert record.read(root / RUN).state == "stopped"
    assert 5 <= len(steps_of(root / RUN)) < 30
    said(ptw(root, "train", "next", "--resume"))
    assert_like(root / RUN, undisturbed)
    generated, _ = said(ptw(root, "runs", "fetch", "next-001"))
    assert generated.strip() == str(root / RUN)


def test_a_machine_that_does_not_see_the_runs_folder_is_named(root: Path, tmp_path: Path) -> None:
    """On that node another disk lies where the head has the folder."""
    shared = tmp_path / "shared"
    shared.mkdir()
    over = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {shared} && exec "$0" "$@"']
    if subprocess.run([*over, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    with running(1, {**environment()}, over) as cluster:
        declare(root, cluster, str(shared), None)
        _, err = said(ptw(root, "train", "next"), 1)
    assert f"runs/next-001 is not there on {socket.gethostname()}: all machines" in err
    assert record.read(root / RUN).state == "failed"
