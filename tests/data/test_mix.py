"""Each part of a mix has its share after every sample, loses none of its own, and goes on exactly."""

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptw.data.produce
import ptw.data.shuffle
from ptw.data.mix import turn, whole_weights
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, Share
from tests.data.test_stream import QUICK, read_with_stops, same

FEWER = settings(QUICK, max_examples=40)

weights = st.lists(
    st.one_of(st.integers(1, 20), st.floats(0.001, 50).map(lambda weight: round(weight, 3))),
    min_size=1,
    max_size=7,
)


@FEWER
@given(weights=weights)
def test_after_any_number_of_samples_each_part_is_within_one_of_its_share(weights: list[float]) -> None:
    ratios = whole_weights(weights)
    shares = [Fraction(ratio, sum(ratios)) for ratio in ratios]
    assert shares == [Fraction(str(weight)) / sum(Fraction(str(w)) for w in weights) for weight in weights]
    given = [0] * len(ratios)
    for count in range(1, 200):
        given[turn(ratios, given)] += 1
        assert all(abs(own - count * share) < 1 for own, share in zip(given, shares, strict=True))


def write_part(folder: Path, name: str, rows: int, length: int = 3, **keys: Any) -> DatasetEntry:
    lines = [json.dumps({"items": [f"i{(at + k) % 50}" for k in range(length)]}) for at in range(rows)]
    (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return DatasetEntry(name, (f"{name}.jsonl",), "event", **keys)


def mix_of(parts: list[DatasetEntry], weights: list[float]) -> DatasetEntry:
    shares = tuple(Share(part, weight) for part, weight in zip(parts, weights, strict=True))
    return DatasetEntry("blend", (), "mix", mix=shares)


@FEWER
@given(
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    length=st.integers(1, 40),
    seed=st.integers(0, 3),
    epochs=st.integers(1, 2),
    block=st.integers(1, 20),
    ahead=st.integers(1, 30),
    ready=st.integers(1, 8),
    stops=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    shuffle=st.booleans(),
)
def test_no_part_loses_or_doubles_a_sample_also_after_any_stops(
    sizes: list[int],
    weights: list[int],
    length: int,
    seed: int,
    epochs: int,
    block: int,
    ahead: int,
    ready: int,
    stops: list[float],
    shuffle: bool,
    item_tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("mix")
    parts = [write_part(root, f"p{at}", size, length, too_long="split") for at, size in enumerate(sizes)]
    dataset = mix_of(parts, [float(weight) for weight in weights[: len(parts)]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptw.data.shuffle, "BLOCK_ROWS", block)
        patch.setattr(ptw.data.produce, "LOOK_AHEAD_SAMPLES", ahead)
        patch.setattr(ptw.data.produce, "READY_ROWS", ready)

        def stream() -> Stream:
            return Stream(root, dataset, item_tokenizer, window=16, seed=seed, epochs=epochs, shuffle=shuffle)

        read = stream()
        whole = list(read)
        counts = Counter(sample.split("#")[0] for row in whole for sample in set(row.samples))
        pieces = Counter(sample for row in whole for sample in row.samples)
        assert_each_is_used_evenly(pieces, counts, sizes, epochs)
        used = [part.used for part in read.parts.values()]
        shares = [Fraction(weight, sum(weights[: len(sizes)])) for weight in weights[: len(sizes)]]
        assert all(abs(own - sum(used) * share) < 1 for own, share in zip(used, shares, strict=True))

        rows, last = read_with_stops(stream, [round(stop * len(whole)) for stop in stops])
        assert len(rows) == len(whole)
        assert all(map(same, rows, whole))
        assert last.parts == read.parts


def assert_each_is_used_evenly(
    pieces: Counter[str], samples: Counter[str], sizes: list[int], epochs: int
) -> None:
    """The slowest part's samples come `epochs` times; a quicker part's differ by one time at most."""
    least = []
    for at, size in enumerate(sizes):
        own = {sample: count for sample, count in pieces.items() if sample.startswith(f"p{at}.")}
        assert len({sample for sample in samples if sample.startswith(f"p{at}.")}) == size
        assert max(own.values()) - min(own.values()) <= 1
        least.append(min(own.values()))
    assert min(least) == epochs


def test_the_parts_of_a_mix_keep_their_format_and_share_rows(
    tmp_path: Path, chat_tokenizer: Callable[..., Tokenizer]
) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am fine"}]}
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps(chat)}\n" * 30)
    texts = [{"text": "Hello there, how are you? " * (40 if at == 3 else 1)} for at in range(20)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    chats = DatasetEntry("chats", ("chats.jsonl",), "chat")
    plots = DatasetEntry("plots", ("texts.jsonl",), "text", too_long="drop")
    blend = mix_of([chats, plots], [0.75, 0.25])
    stream = Stream(tmp_path, blend, chat_tokenizer(), window=128, seed=0, epochs=1)
    rows = list(stream)
    assert any({name.split(":")[0] for name in row.samples} == {"chats.jsonl", "texts.jsonl"} for row in rows)
    # 19 plots are a quarter: the chats, of which there are 30, come twice
    assert {name: part.samples_out for name, part in stream.parts.items()} == {"chats": 60, "plots": 19}
    assert [refused.place for refused in stream.parts["plots"].refused] == ["texts.jsonl:4"]
    assert stream.parts["chats"].refused_count == 0
    assert stream.parts["plots"].epoch == 1


def test_a_mix_does_not_go_on_in_other_shares(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = [write_part(tmp_path, "a", 9), write_part(tmp_path, "b", 5)]

    def stream(weights: list[float]) -> Stream:
        return Stream(tmp_path, mix_of(parts, weights), item_tokenizer, window=16, seed=0, epochs=1)

    with pytest.raises(PtwError, match="dataset blend: dataset changed since the checkpoint"):
        stream([1, 2]).load_state_dict(stream([1, 3]).state_dict())


def test_a_part_of_which_nothing_can_be_used_is_named(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = [write_part(tmp_path, "a", 9), write_part(tmp_path, "b", 5, leave_out=9)]
    with pytest.raises(PtwError, match=r"dataset b: no row can be used \(5 were refused; b\.jsonl:"):
        list(Stream(tmp_path, mix_of(parts, [1, 1]), item_tokenizer, window=16, seed=0, epochs=1))
