"""Every sample once an epoch, in rows of one shape, and after any stop the very same rows."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ptw.data.produce
import ptw.data.shuffle
import ptw.files.spans
from ptw.data.pack import PackedRow
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def write_events(folder: Path, lengths: list[int], files: int = 1) -> tuple[str, ...]:
    rows = [json.dumps({"items": [f"i{(at + k) % 50}" for k in range(n)]}) for at, n in enumerate(lengths)]
    for number in range(files):
        (folder / f"{number}.jsonl").write_text("".join(row + "\n" for row in rows[number::files]))
    return tuple(f"{number}.jsonl" for number in range(files) if rows[number::files])


def same(one: PackedRow, other: PackedRow) -> bool:
    arrays = np.array_equal(one.ids, other.ids) and np.array_equal(one.targets, other.targets)
    return arrays and (one.lengths, one.samples, one.epoch) == (other.lengths, other.samples, other.epoch)


def read_with_stops(stream: Callable[[], Stream], stops: list[int]) -> tuple[list[PackedRow], Stream]:
    """All rows, and the last stream: after each stop another one goes on, from the state as JSON."""
    rows, current = list[PackedRow](), stream()
    for stop in sorted(stops):
        rows += [next(current) for _ in range(stop - len(rows))]
        state = json.loads(json.dumps(current.state_dict()))
        current.close()
        current = stream()
        current.load_state_dict(state)
    return rows + list(current), current


def dataset_of(source: tuple[str, ...], **keys: Any) -> DatasetEntry:
    return DatasetEntry("events", source, "event", **keys)


@QUICK
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    window=st.integers(16, 40),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 3),
    files=st.integers(1, 3),
    block=st.integers(1, 20),
    span=st.integers(1, 9),
    ahead=st.integers(1, 30),
    ready=st.integers(1, 8),
    stops=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    shuffle=st.booleans(),
)
def test_every_sample_comes_once_an_epoch_also_after_any_stops(
    lengths: list[int],
    window: int,
    seed: int,
    epochs: int,
    files: int,
    block: int,
    span: int,
    ahead: int,
    ready: int,
    stops: list[float],
    shuffle: bool,
    item_tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("events")
    dataset = dataset_of(write_events(root, lengths, files), too_long="split")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptw.data.shuffle, "BLOCK_ROWS", block)
        patch.setattr(ptw.files.spans, "SPAN_LINES", span)
        patch.setattr(ptw.data.produce, "LOOK_AHEAD_SAMPLES", ahead)
        patch.setattr(ptw.data.produce, "READY_ROWS", ready)

        def stream() -> Stream:
            return Stream(
                root, dataset, item_tokenizer, window=window, seed=seed, epochs=epochs, shuffle=shuffle
            )

        whole = list(stream())
        samples = Counter(sample for row in whole for sample in row.samples)
        assert set(samples.values()) == {epochs}
        assert len({sample.split("#")[0] for sample in samples}) == len(lengths)
        assert sum(sum(row.lengths) for row in whole) == epochs * sum(length + 1 for length in lengths)
        assert all(row.ids.shape == row.targets.shape == (window,) for row in whole)

        rows, _ = read_with_stops(stream, [round(stop * len(whole)) for stop in stops])
        assert len(rows) == len(whole)
        assert all(map(same, rows, whole))


def test_rows_of_long_and_short_samples_are_mixed_through_the_epoch(
    item_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Packing fills the first rows with the longest samples; a model must not see them in that order."""
    lengths = [1 + 57 * (at % 2) for at in range(400)]
    dataset = dataset_of(write_events(tmp_path, lengths))
    rows = list(Stream(tmp_path, dataset, item_tokenizer, window=64, seed=0, epochs=1))
    counts = np.array([len(row.samples) for row in rows])
    assert counts.std() > 0
    assert abs(np.corrcoef(np.arange(len(counts)), counts)[0, 1]) < 0.5


def test_a_large_file_that_is_sorted_is_mixed_through_the_epoch(
    item_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten blocks each would hold another tenth of the file, if only their own rows were shuffled."""
    monkeypatch.setattr(ptw.data.shuffle, "BLOCK_ROWS", 1000)
    dataset = dataset_of(write_events(tmp_path, [5] * 10_000))
    rows = Stream(tmp_path, dataset, item_tokenizer, window=6, seed=0, epochs=1)
    lines = np.array([int(row.samples[0].rpartition(":")[2]) for row in rows])
    assert sorted(lines) == list(range(1, 10_001))
    means = lines.reshape(10, 1000).mean(axis=1) / 10_000
    assert np.abs(means - 0.5).max() < 0.2  # in order: .05 to .95; 16 spans in a block: +- .07
    neighbours = np.abs(np.diff(lines)) / 10_000
    assert neighbours.mean() > 0.25  # of two rows at random: 1/3


def test_targets_are_the_next_ids_of_the_same_document(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = dataset_of(write_events(tmp_path, [3, 9, 1, 4, 6, 2]))
    for row in Stream(tmp_path, dataset, item_tokenizer, window=12, seed=0, epochs=1):
        begin = 0
        for length in row.lengths:
            document = slice(begin, begin + length)
            assert row.ids[begin] == item_tokenizer.bos_id
            assert row.targets[document].tolist() == [*row.ids[document].tolist()[1:], -100]
            begin += length
        assert (row.ids[begin:] == item_tokenizer.pad_id).all()
        assert (row.targets[begin:] == -100).all()


def test_epochs_and_seeds_shuffle_differently(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = dataset_of(write_events(tmp_path, [5] * 40))
    orders = {}
    for seed in (0, 1):
        rows = list(Stream(tmp_path, dataset, item_tokenizer, window=6, seed=seed, epochs=2))
        orders[seed] = [row.samples[0] for row in rows]
        assert [row.epoch for row in rows] == [0] * 40 + [1] * 40
    assert len({tuple(order[:40]) for order in orders.values()} | {tuple(orders[0][40:])}) == 3
    plain = Stream(tmp_path, dataset, item_tokenizer, window=6, seed=0, epochs=1, shuffle=False)
    assert [row.samples[0] for row in plain] == [f"0.jsonl:{line}" for line in range(1, 41)]


def test_a_stream_without_epochs_is_endless_and_closes(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = dataset_of(write_events(tmp_path, [3, 4, 5]))
    stream = Stream(tmp_path, dataset, item_tokenizer, window=16, seed=0, epochs=None)
    before = [next(stream) for _ in range(50)]
    assert stream.epoch > 10
    stream.close()
    again = Stream(tmp_path, dataset, item_tokenizer, window=16, seed=0, epochs=None)
    assert all(map(same, before, again))
    assert not same(next(stream), before[-1]) or stream.epoch > 10
    stream.close()
    again.close()


def test_what_is_too_long_follows_the_policy(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write_events(tmp_path, [30, 4])

    def rows(policy: str) -> tuple[Stream, list[PackedRow]]:
        dataset = dataset_of(source, too_long=policy)
        stream = Stream(tmp_path, dataset, item_tokenizer, window=8, seed=0, epochs=1, shuffle=False)
        return stream, list(stream)

    with pytest.raises(
        PtwError, match=r"0\.jsonl:1: 31 ids are more than the window of 8.*\[datasets\.events\]"
    ):
        rows("error")
    stream, dropped = rows("drop")
    assert [row.samples for row in dropped] == [("0.jsonl:2",)]
    assert stream.parts["events"].refused == (("0.jsonl:1", "31 ids are more than the window of 8"),)
    _, truncated = rows("truncate")
    newest = [item_tokenizer.bos_id, *item_tokenizer.item_ids([f"i{n}" for n in range(23, 30)])]
    assert truncated[0].ids.tolist() == newest
    _, split = rows("split")
    parts = {
        name: row.ids[sum(row.lengths[:at]) :][: row.lengths[at]].tolist()
        for row in split
        for at, name in enumerate(row.samples)
    }
    joined = [id_ for part in range(1, 5) for id_ in parts[f"0.jsonl:1#{part}"]]
    assert joined == [item_tokenizer.bos_id, *item_tokenizer.item_ids([f"i{n}" for n in range(30)])]


def test_events_left_out_are_in_no_row(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = dataset_of(write_events(tmp_path, [5, 2, 1]), leave_out=2)
    stream = Stream(tmp_path, dataset, item_tokenizer, window=16, seed=0, epochs=2, shuffle=False)
    rows = list(stream)
    assert {sample for row in rows for sample in row.samples} == {"0.jsonl:1"}
    assert set(rows[0].lengths) == {4}
    assert [refused.place for refused in stream.parts["events"].refused] == ["0.jsonl:2", "0.jsonl:3"]
    assert stream.parts["events"].refused_count == 2


def test_a_dataset_of_which_nothing_can_be_used_is_an_error(
    item_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    dataset = dataset_of(write_events(tmp_path, [2, 1]), leave_out=9)
    with pytest.raises(PtwError, match="no row can be used"):
        next(Stream(tmp_path, dataset, item_tokenizer, window=16, seed=0, epochs=None))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(PtwError, match=r"empty\.jsonl: no rows"):
        next(Stream(tmp_path, dataset_of(("empty.jsonl",)), item_tokenizer, window=8, seed=0, epochs=1))


def test_a_bad_row_is_raised_where_it_would_have_come(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text('{"items": ["i1", "i2"]}\n{"items": ["unheard"]}\n')
    stream = Stream(tmp_path, dataset_of(("0.jsonl",)), item_tokenizer, window=8, seed=0, epochs=1)
    with pytest.raises(PtwError, match=r"0\.jsonl:2: item 'unheard' is not in tokenizer items"):
        list(stream)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window": 17}, "window"),
        ({"seed": 1}, "seed"),
        ({"leave_out": 1}, "dataset"),
        ({"rows": [9]}, "files"),
    ],
)
def test_a_state_of_another_stream_is_refused(
    change: dict[str, Any], named: str, item_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def stream(window: int = 16, seed: int = 0, leave_out: int = 0, rows: list[int] | None = None) -> Stream:
        dataset = dataset_of(write_events(tmp_path, rows or [5, 6]), leave_out=leave_out)
        return Stream(tmp_path, dataset, item_tokenizer, window=window, seed=seed, epochs=1)

    state = stream().state_dict()
    with pytest.raises(PtwError, match=f"{named} changed since the checkpoint"):
        stream(**change).load_state_dict(state)


def test_a_damaged_state_is_refused(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = dataset_of(write_events(tmp_path, [5, 6]))
    stream = Stream(tmp_path, dataset, item_tokenizer, window=16, seed=0, epochs=1)
    for damage in ({"reading": 3}, {"open": [[1, 2, 3]]}, {"nonsense": 1}):
        with pytest.raises(PtwError, match="not the state of a stream"):
            stream.load_state_dict({**stream.state_dict(), **damage})


def test_real_chats_are_packed_to_the_brim(
    real_data: Path, tmp_path: Path, chat_tokenizer: Callable[..., Tokenizer]
) -> None:
    write_threads(real_data / "oasst" / "en_100_tree.jsonl", tmp_path / "chats.jsonl")
    dataset = DatasetEntry("chats", ("chats.jsonl",), "chat", too_long="drop")
    stream = Stream(tmp_path, dataset, chat_tokenizer(), window=8192, seed=0, epochs=2)
    samples = Counter(sample for row in stream for sample in row.samples)
    assert set(samples.values()) == {2}
    assert stream.efficiency > 0.995
    assert len(json.dumps(stream.state_dict())) < 30_000


def write_threads(trees: Path, chats: Path) -> None:
    """Every path from a tree's prompt to its last answer as a chat."""

    def threads(node: dict[str, Any], path: list[dict[str, str]]) -> list[list[dict[str, str]]]:
        role = "user" if node["role"] == "prompter" else "assistant"
        path = [*path, {"role": role, "content": node["text"]}]
        replies = node.get("replies") or []
        if not replies:
            return [path if role == "assistant" else path[:-1]]
        return [thread for reply in replies for thread in threads(reply, path)]

    with chats.open("w") as file:
        for line in trees.read_text().splitlines():
            for thread in threads(json.loads(line)["prompt"], []):
                if thread:
                    file.write(json.dumps({"messages": thread}) + "\n")
