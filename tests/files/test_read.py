"""Rows come from every kind of file, from any place on, and a damaged one is named."""

import gzip
import io
import json
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import ptw.files.read
import ptw.files.spans
from ptw.data.sources import Position, digest, rows, walk
from ptw.errors import PtwError
from ptw.files.find import find
from ptw.files.read import read_on
from ptw.files.spans import Span, spans

VALUES = [{"text": f"row {at} " + "é" * (at % 50), "at": at} for at in range(700)]
LINES = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in VALUES).encode()


def parquet(values: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), buffer, row_group_size=200)
    return buffer.getvalue()


def zst(content: bytes) -> bytes:
    # two frames, as `cat a.zst b.zst` leaves them
    half = len(content) // 2
    return zstandard.compress(content[:half]) + zstandard.compress(content[half:])


CONTENT = {
    "a.jsonl": LINES,
    "b.jsonl.gz": gzip.compress(LINES),
    "c.jsonl.zst": zst(LINES),
    "d.parquet": parquet(VALUES),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def whole(root: Path, pattern: str) -> list[Span]:
    return [Span(file) for file in find(root, (pattern,))]


def test_every_kind_of_file_gives_the_same_rows(root: Path) -> None:
    for name in CONTENT:
        assert [row.value for row in rows(root, (name,))] == VALUES
    assert next(rows(root, ("a.jsonl",))).place == "a.jsonl:1"
    assert next(rows(root, ("d.parquet",))).place == "d.parquet:row 1"


def test_reading_goes_on_after_any_row(root: Path) -> None:
    walked = list(walk(whole(root, "*"), Position()))
    places = [row.place for _, row in walked]
    assert len(places) == len(set(places)) == 4 * len(VALUES)
    for at in (0, 1, 698, 699, 700, 1000, 1399, 1400, 2099, 2100, 2299, 2300, 2798):
        rest = [row.place for row in rows(root, ("*",), walked[at][0])]
        assert rest == places[at + 1 :]


def test_spans_are_the_file_in_pieces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1 << 18, 5):
        monkeypatch.setattr(ptw.files.spans, "MOST_SPANS", most)
        pieces = {file.place: spans(file) for file in find(root, ("*",))}
        for name, found in pieces.items():
            assert [row.value for _, row in walk(found, Position())] == VALUES
            parts = [len(list(walk([span], Position()))) for span in found]
            wanted = {"d.parquet": [200, 200, 200, 100]}.get(name, [len(VALUES)])
            if name == "a.jsonl":
                each = 64 if most > 5 else 256
                wanted = [each] * (len(VALUES) // each) + [len(VALUES) % each]
            assert parts == wanted


@given(
    lines=st.lists(
        st.sampled_from([b'{"a": 1}', b"", b'{"a": "%s"}' % (b"x" * 90)]), min_size=1, max_size=40
    ),
    ends=st.booleans(),
    each=st.integers(1, 9),
    chunk=st.integers(1, 200),
    most=st.integers(2, 50),
)
def test_spans_hold_every_line_once(
    lines: list[bytes], ends: bool, each: int, chunk: int, most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("lines")
    (root / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n" * ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptw.files.read, "_CHUNK_BYTES", chunk)
        patch.setattr(ptw.files.spans, "SPAN_LINES", each)
        patch.setattr(ptw.files.spans, "MOST_SPANS", most)
        (file,) = find(root, ("a.jsonl",))
        read = [row.number for row in read_on(file)]
        found = spans(file)
        assert [row.number for span in found for row in read_on(*span)] == read
        assert len(found) <= most


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}')
    assert [(row.place, row.value["a"]) for row in rows(tmp_path, ("a.jsonl",))] == [
        ("a.jsonl:1", 1),
        ("a.jsonl:4", 2),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: not UTF-8 at byte 7"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', r"a\.jsonl:3: a row must be a JSON object, this is a list"),
        ("a.jsonl", b'{"a": 1, "b": {"c": 1, "c": 2}}', r"a\.jsonl:1: not JSON \(the key 'c' stands twice"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b"", r"a\.jsonl: no rows"),
        ("a.jsonl.gz", CONTENT["b.jsonl.gz"][:-20], r"a\.jsonl\.gz: cut off or damaged"),
        ("a.jsonl.gz", b"plain text", r"a\.jsonl\.gz: cut off or damaged"),
        ("a.jsonl.zst", CONTENT["c.jsonl.zst"][:-20], r"a\.jsonl\.zst: cut off or damaged"),
        ("a.jsonl.zst", b"plain text", r"a\.jsonl\.zst: cut off or damaged"),
        ("a.parquet", CONTENT["d.parquet"][:-20], r"a\.parquet: cut off or no parquet"),
        ("a.parquet", b"", r"a\.parquet: cut off or no parquet"),
        ("a.csv", b"a,b", r"a\.csv: rows are read from \.jsonl"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PtwError, match=message):
        list(rows(tmp_path, (name,)))


def test_a_parquet_file_damaged_inside_is_named(tmp_path: Path) -> None:
    content = bytearray(CONTENT["d.parquet"])
    content[20:400] = os.urandom(380)
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(PtwError, match=r"a\.parquet"):
        list(rows(tmp_path, ("a.parquet",)))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PtwError, match=r"^no/\*\.jsonl: no file under"):
        list(rows(tmp_path, ("no/*.jsonl",)))
    with pytest.raises(PtwError, match=r"this kind of URL|store doesn't answer"):
        list(rows(tmp_path, ("nonsense://bucket/a.jsonl",)))


def test_a_glob_is_sorted_and_each_file_comes_once(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "[x].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"a": 1}\n')
    places = [file.place for file in find(tmp_path, ("**/*.jsonl", "a.jsonl"))]
    assert places == ["[x].jsonl", "a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert [file.place for file in find(tmp_path, ("[x].jsonl",))] == ["[x].jsonl"]


def test_the_digest_is_that_of_the_content(root: Path) -> None:
    before = digest(root, ("*",))
    os.utime(root / "a.jsonl", (1, 1))
    assert digest(root, ("*",)) == before
    (root / "a.jsonl").write_bytes(LINES.replace(b"row 5 ", b"row 6 "))
    assert digest(root, ("*",)) != before


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 server on this machine, found through the usual environment."""
    server = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("bucket")
    for name, content in CONTENT.items():
        filesystem.pipe_file(f"bucket/deep/{name}", content)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield "s3://bucket/deep"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    running.stop()


def test_a_bucket_is_read_like_a_folder(bucket: str, tmp_path: Path) -> None:
    walked = list(walk(whole(tmp_path, f"{bucket}/*"), Position()))
    assert [row.value for _, row in walked] == VALUES * 4
    assert walked[0][1].place == f"{bucket}/a.jsonl:1"
    position, _ = walked[1000]
    assert [row.value for row in rows(tmp_path, (f"{bucket}/*",), position)] == (VALUES * 4)[1001:]
    assert digest(tmp_path, (f"{bucket}/a.jsonl",)) == digest(tmp_path, (f"{bucket}/a.jsonl",))
    assert digest(tmp_path, (f"{bucket}/a.jsonl",)) != digest(tmp_path, (f"{bucket}/b.jsonl.gz",))
    with pytest.raises(PtwError, match=r"^s3://bucket/no\.jsonl: no file there matches"):
        find(tmp_path, ("s3://bucket/no.jsonl",))


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="the driver of s3:// is not installed")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(PtwError, match=r"the store doesn't answer.*AWS_ENDPOINT_URL"):
        find(tmp_path, ("s3://bucket/*.jsonl",))
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_reading_holds_little(tmp_path: Path, memory_of: Callable[[Callable[[], object]], int]) -> None:
    random_bytes = random.Random(0).randbytes
    lines = b"".join(json.dumps({"text": random_bytes(2000).hex()}).encode() + b"\n" for _ in range(5000))
    for name, content in (
        ("a.jsonl", lines),
        ("b.jsonl.gz", gzip.compress(lines, 1)),
        ("c.jsonl.zst", zst(lines)),
    ):
        (tmp_path / name).write_bytes(content)
        peak = memory_of(lambda name=name: sum(1 for _ in rows(tmp_path, (name,))))
        assert peak < len(lines) / 3, name


@pytest.fixture
def memory_of() -> Callable[[Callable[[], object]], int]:
    """The most bytes that a call holds at once."""

    def measure(call: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure
