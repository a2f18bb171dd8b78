"""What becomes of corrupted rows, files, states and weights: is the place named, and nothing lost unsaid?"""

import gzip
import io
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import corrupted_weights
from benchmarks.damage import Outcome, damaged
from benchmarks.report import Figure, publish

TRIALS = 1000
GOOD = 60  # rows of a file
SUFFIXES = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "",
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    {"a": [{"b": None}]},
    "x" * 5000,
    [None, 3, "i1"],
    [{"role": "assistant"}],
    [{"role": 3, "content": []}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": {"b": 1}}],
)
PLAIN = tuple(value for value in STRANGE if not isinstance(value, list | dict))
LINES = (
    b"{",
    b"",
    b"null",
    b"[1, 2]",
    b'{"text": NaN}',
    b'{"text": 1e999}',
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b"[" * 50_000,
    b'{"text": ' + b"9" * 6000 + b"}",
    b'{"text": "a", "text": "b"}',
    b'{"items": ["i1"], "items": 3}',
    '{"text": "é"}'.encode("latin-1"),
    '{"text": "wide"}'.encode("utf-16"),
    b'{"text": "\\ud800"}',
    b'{"text": "a"} {"text": "b"}',
    b'\xef\xbb\xbf{"text": "a"}',
    b"\x00" * 100,
)


def main() -> None:
    outcomes = [outcome_of(seed) for seed in range(TRIALS)]
    weights = [corrupted_weights.outcome_of(seed) for seed in range(TRIALS)]
    by_end = Counter(outcome.ended for outcome in outcomes)
    of_weights = Counter(outcome.ended for outcome in weights)
    for outcome in [*outcomes, *weights]:
        if outcome.ended not in ("refused", "read"):
            print(f"{outcome.kind}: {outcome.ended}: {outcome.told}", file=sys.stderr)
    figures = [
        Figure("corrupted inputs", len(outcomes)),
        Figure("refused with the place", by_end["refused"]),
        Figure("read whole: each row used or counted as refused", by_end["read"]),
        Figure("other exceptions", by_end["exception"], want=0),
        Figure("messages without a place", by_end["no place"], want=0),
        Figure("rows lost unsaid", by_end["lost"], want=0),
        Figure("corrupted checkpoints", len(weights)),
        Figure("checkpoints: refused with the file", of_weights["refused"]),
        Figure("checkpoints: loaded, every tensor right", of_weights["read"]),
        Figure("checkpoints: other exceptions", of_weights["exception"], want=0),
        Figure("checkpoints: messages without a file", of_weights["no place"], want=0),
        Figure("checkpoints: tensors wrong unsaid", of_weights["lost"], want=0),
    ]
    about = (
        f"rows, files ({', '.join(SUFFIXES)}) and states of chats, text and events; safetensors and their "
        "index, all but the numbers themselves, which have no sums; from fixed seeds"
    )
    publish("corrupted", about, figures)


def outcome_of(seed: int) -> Outcome:
    """What one corruption leads to."""
    draw = random.Random(seed)
    kind: Callable[[random.Random, Path], Outcome] = draw.choice([_file, _file, _file, _state])
    with TemporaryDirectory() as folder:
        return kind(draw, Path(folder))


def _file(draw: random.Random, folder: Path) -> Outcome:
    format, suffix = draw.choice(["chat", "text", "event"]), draw.choice(SUFFIXES)
    rows = [_row(draw, format, number) for number in range(GOOD)]
    in_rows = draw.random() < 0.5
    if in_rows:
        for _ in range(draw.randint(1, 3)):
            # pyarrow's writer itself crashes on a column of nested values of several kinds
            _spoil(draw, rows[draw.randrange(GOOD)], PLAIN if suffix == "parquet" else STRANGE)
    try:
        content = _stored(rows, suffix, draw if in_rows else None)
    except Exception:  # pyarrow has no column for values of two kinds: spoil the bytes instead
        in_rows, content = False, _stored([_row(draw, format, n) for n in range(GOOD)], suffix, None)
    if not in_rows:
        content = damaged(draw, content)
    name = f"a.{suffix}"
    (folder / name).write_bytes(content)
    return _read(f"{'rows' if in_rows else 'bytes'} of {format} in {suffix}", folder, name, format, content)


def _read(kind: str, folder: Path, name: str, format: str, content: bytes) -> Outcome:
    from ptw.errors import PtwError

    try:
        stream = _stream(folder, name, format)
        for _ in stream:
            pass
    except PtwError as error:
        return Outcome(kind, "refused" if name in str(error) else "no place", str(error))
    except Exception as error:
        return Outcome(kind, "exception", f"{type(error).__name__}: {error}")
    part = stream.parts["data"]
    there = _rows_in(name, content)
    told = f"{there} rows, {part.used} used, {part.refused_count} refused"
    named = all(name in refused.place for refused in part.refused) and len(part.refused) == part.refused_count
    return Outcome(kind, "read" if named and part.used + part.refused_count == there else "lost", told)


def _state(draw: random.Random, folder: Path) -> Outcome:
    from ptw.errors import PtwError

    (folder / "a.jsonl").write_bytes(
        _stored([_row(draw, "event", number) for number in range(GOOD)], "jsonl", None)
    )
    first = _stream(folder, "a.jsonl", "event")
    for _ in range(draw.randrange(5)):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    expected = [row.samples for row in first]
    before = json.dumps(state)
    for _ in range(draw.randint(1, 3)):
        _spoil(draw, state)
    second = _stream(folder, "a.jsonl", "event")
    try:
        second.load_state_dict(state)
        same = [row.samples for row in second] == expected
    except PtwError as error:
        return Outcome("state", "refused", str(error))
    except Exception as error:
        return Outcome("state", "exception", f"{type(error).__name__}: {error}")
    return Outcome(
        "state", "read" if same and json.dumps(state) == before else "lost", "a changed state was taken"
    )


def _stream(folder: Path, name: str, format: str) -> Any:
    from ptw.data.stream import Stream
    from ptw.workspace.manifest import DatasetEntry

    too_long = "truncate" if format == "chat" else "split"
    dataset = DatasetEntry("data", (name,), format, too_long=too_long)
    return Stream(folder, dataset, _tokenizer(format), window=64, seed=0, epochs=1)


_TOKENIZERS: dict[bool, Any] = {}


def _tokenizer(format: str) -> Any:
    from ptw.files.read import Row
    from ptw.tokens.items import build_items
    from ptw.tokens.learn import learn
    from ptw.tokens.tokenizer import Tokenizer

    items = format == "event"
    if items not in _TOKENIZERS:
        rows = (Row(f"items:{number}", {"id": f"i{number}"}) for number in range(50))
        hf = build_items(rows, "items") if items else learn(["What is it? It is 1 2 3."] * 20, 320)
        _TOKENIZERS[items] = Tokenizer(hf, "small")
    return _TOKENIZERS[items]


def _row(draw: random.Random, format: str, number: int) -> dict[str, Any]:
    if format == "event":
        return {"id": number, "items": [f"i{draw.randrange(50)}" for _ in range(draw.randint(1, 9))]}
    if format == "text":
        return {"id": number, "text": f"What is {number}? It is {draw.random()}."}
    said = [("user", f"What is {number}?"), ("assistant", f"It is {draw.random()}.")]
    return {"id": number, "messages": [{"role": role, "content": content} for role, content in said]}


def _spoil(draw: random.Random, row: dict[str, Any], strange: tuple[Any, ...] = STRANGE) -> None:
    """One value, anywhere in the row, is another or is gone."""
    place: Any = row
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.choice(keys) if keys else None
        if key is None:
            return
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.6:
            place = place[key]
            continue
        if draw.random() < 0.2:
            del place[key]
        else:
            place[key] = draw.choice(strange)
        return


def _stored(rows: list[dict[str, Any]], suffix: str, draw: random.Random | None) -> bytes:
    """The rows as the file has them; with `draw` some lines are none."""
    import pyarrow
    import pyarrow.parquet
    import zstandard

    if suffix == "parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=25)
        return buffer.getvalue()
    lines = [json.dumps(row).encode() for row in rows]
    if draw is not None and draw.random() < 0.5:
        lines[draw.randrange(len(lines))] = draw.choice(LINES)
    content = b"\n".join(lines) + b"\n"
    if suffix == "jsonl":
        return content
    return gzip.compress(content) if suffix == "jsonl.gz" else zstandard.compress(content)


def _rows_in(name: str, content: bytes) -> int:
    """How many rows the file has by other means than ptw's."""
    import pyarrow.parquet
    import zstandard

    if name.endswith("parquet"):
        return int(pyarrow.parquet.read_table(io.BytesIO(content)).num_rows)
    if name.endswith("gz"):
        content = gzip.decompress(content)
    if name.endswith("zst"):
        with zstandard.ZstdDecompressor().stream_reader(
            io.BytesIO(content), read_across_frames=True
        ) as reader:
            content = reader.read()
    return sum(bool(line.strip()) for line in content.split(b"\n"))


if __name__ == "__main__":
    main()
