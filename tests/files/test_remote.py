"""A store that resets, stalls and errs loses no byte of a file and doubles none, and is given up in words."""

import itertools
import json
import random
from collections.abc import Iterator

import fsspec
import pytest

import ptw.files.find
import ptw.files.read
from ptw.data.sources import Position, rows, walk
from ptw.errors import PtwError
from ptw.files import remote
from ptw.files.find import File, find, open_file, size_bytes
from ptw.files.spans import Span
from tests.files.flaky import Fault, Flaky, flaky
from tests.files.test_read import parquet, zst

DRAW = random.Random(0)
VALUES: list[dict[str, object]] = [{"text": DRAW.randbytes(60).hex(), "at": at} for at in range(3000)]
LINES = "".join(json.dumps(value) + "\n" for value in VALUES).encode()
CONTENT = {"a.jsonl": LINES, "b.jsonl.zst": zst(LINES), "c.parquet": parquet(VALUES)}


@pytest.fixture(scope="module")
def store() -> Iterator[Flaky]:
    """moto's S3 server behind the proxy, with a shards of files."""
    server = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
    pytest.importorskip("s3fs", reason="the driver of s3:// is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    direct = fsspec.filesystem(
        "s3", endpoint_url=f"http://{host}:{port}", key="a", secret="b", skip_instance_cache=True
    )
    direct.mkdir("shards")
    for name, content in CONTENT.items():
        direct.pipe_file(f"shards/{name}", content, ACL="public-read")
    with flaky(host, port) as proxy:
        proxy.direct = direct
        yield proxy
    running.stop()


@pytest.fixture
def flaky_store(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """The drivers' own patience is switched off: what is tried again, ptw tries again."""
    s3 = fsspec.get_filesystem_class("s3")
    for name, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "retries", 1)
    monkeypatch.setattr(s3, "read_timeout", 0.5)
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01,) * 4)
    for module, constant in (
        (remote, "BLOCK_BYTES"),
        (ptw.files.find, "_CHUNK_BYTES"),
        (ptw.files.read, "_CHUNK_BYTES"),
    ):
        monkeypatch.setattr(module, constant, 1 << 16)
    s3.clear_instance_cache()
    yield store
    store.faults = iter(())
    s3.clear_instance_cache()


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_no_row_is_lost_or_doubled(flaky_store: Flaky, name: str, scheme: str, tmp_path: object) -> None:
    files = find(tmp_path, (f"s3://shards/{name}" if scheme == "s3" else f"{flaky_store.url}/shards/{name}",))
    faults: list[Fault] = ["reset", "500", "cut", "pass", "slow down", "pass", "reset", "pass"]
    flaky_store.failed.clear()
    flaky_store.faults = itertools.cycle(faults)
    walked = list(walk([Span(file) for file in files], Position()))
    assert [row.value for _, row in walked] == VALUES
    assert len({row.place for _, row in walked}) == len(VALUES)
    assert len(flaky_store.failed) >= 4
    position, _ = walked[2000]
    assert [row.value for _, row in walk([Span(file) for file in files], position)] == VALUES[2001:]


def test_a_store_that_stalls_is_asked_again(flaky_store: Flaky) -> None:
    flaky_store.failed.clear()
    flaky_store.faults = iter(["pass", "stall", "pass"])
    assert [row.value for row in rows(None, ("s3://shards/a.jsonl",))] == VALUES
    assert flaky_store.failed == ["stall"]


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_a_store_that_goes_on_failing_is_given_up(flaky_store: Flaky, fault: Fault) -> None:
    flaky_store.faults = itertools.chain(["pass"] * 3, itertools.repeat(fault))
    read = []
    with pytest.raises(PtwError, match=r"^s3://shards/a\.jsonl: can't be read, tried 5 times, at last: \w+"):
        read += [row.value for row in rows(None, ("s3://shards/a.jsonl",))]
    flaky_store.faults = itertools.repeat(fault)
    with pytest.raises(PtwError, match=r"c\.parquet: can't be read, tried 5 times"):
        list(rows(None, ("s3://shards/c.parquet",)))


def test_what_is_missing_is_asked_for_once(flaky_store: Flaky) -> None:
    with pytest.raises(
        PtwError, match=r"s3://shards/no\.jsonl: can't be read, tried once, at last: FileNotF"
    ):
        open_file(File("s3://shards/no.jsonl", "s3://shards/no.jsonl", True))
    with pytest.raises(PtwError, match="tried once"):
        size_bytes(File("s3://shards/no.jsonl", "s3://shards/no.jsonl", True))


def test_a_file_that_changes_while_it_is_read_is_refused(flaky_store: Flaky) -> None:
    """Half of one content and half of another would be rows that nobody wrote."""
    flaky_store.direct.pipe_file("shards/z.jsonl", LINES)
    read = rows(None, ("s3://shards/z.jsonl",))
    next(read)
    flaky_store.direct.pipe_file("shards/z.jsonl", LINES.replace(b'"at"', b'"ta"'))
    with pytest.raises(PtwError, match=r"z\.jsonl: it was changed while it was read"):
        list(read)
