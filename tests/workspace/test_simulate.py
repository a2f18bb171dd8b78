"""The simulated service is the same for a seed, and its next title can be learnt beyond what is popular."""

import json
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ptw.workspace.catalogue import MATURITY
from ptw.workspace.circumstances import DEVICE_OF, EVENING_SECONDS
from ptw.workspace.simulate import MEMBERS, write_service

FILES = ("items", "viewings", "chats", "chats-held-out")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    folder = tmp_path_factory.mktemp("service")
    write_service(folder)
    return {name: read(folder / f"{name}.jsonl") for name in FILES}


def read(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def titles(service: dict[str, Rows]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in service["items"]}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        write_service(tmp_path / name, 60, seed)
    for name in FILES:
        one, same, other = (
            (tmp_path / folder / f"{name}.jsonl").read_bytes() for folder in ("one", "same", "other")
        )
        assert one == same
        assert one != other


def test_the_size_is_the_members(tmp_path: Path, service: dict[str, Rows]) -> None:
    write_service(tmp_path, 100)
    assert len(read(tmp_path / "viewings.jsonl")) == 100
    assert len(service["viewings"]) == MEMBERS
    assert len(service["items"]) == 400
    assert len(read(tmp_path / "items.jsonl")) < 200


def test_items_have_what_they_need(service: dict[str, Rows]) -> None:
    items = service["items"]
    assert len({row["id"] for row in items}) == len({row["title"] for row in items}) == len(items)
    for row in items:
        assert {"id", "text", "title", "plot", "genres", "maturity", "year"} <= set(row)
        assert row["title"] in row["text"]
        assert row["plot"] in row["text"]
        assert row["maturity"] in MATURITY
        assert 1980 <= row["year"] <= 2026


def test_viewings_are_in_time_order_and_of_the_catalogue(service: dict[str, Rows]) -> None:
    known = titles(service)
    for row in service["viewings"]:
        assert len(row["items"]) == len(row["times"]) == len(set(row["items"])) > 0
        assert set(row["items"]) <= set(known)
        assert row["times"] == sorted(set(row["times"]))
    assert len({row["id"] for row in service["viewings"]}) == len(service["viewings"])


def test_each_viewing_has_a_device_and_a_time_that_was_watched(service: dict[str, Rows]) -> None:
    known, best, given_up = titles(service), [], dict[bool, list[bool]]({True: [], False: []})
    for row in service["viewings"]:
        genres = [known[item]["genres"][0] for item in row["items"]]
        assert len(row["device"]) == len(row["seconds"]) == len(row["items"])
        best += [device == DEVICE_OF[genre] for device, genre in zip(row["device"], genres, strict=True)]
        for at, (one, other) in enumerate(pairwise(row["times"])):
            assert 0 < row["seconds"][at] <= other - one
            assert row["device"][at] == row["device"][at + 1] or other - one >= EVENING_SECONDS
        for genre, seconds in zip(genres, row["seconds"], strict=True):
            given_up[genres.count(genre) > len(genres) / 4].append(seconds < 600)
    assert 0.5 < statistics.mean(best) < 0.9
    assert statistics.mean(given_up[False]) > 3 * statistics.mean(given_up[True])


def test_popularity_is_skewed(service: dict[str, Rows]) -> None:
    counts = sorted(
        Counter(item for row in service["viewings"] for item in row["items"]).values(), reverse=True
    )
    assert sum(counts[:40]) > 0.27 * sum(counts)  # a tenth of the titles; evenly spread it would be a tenth
    assert counts[0] > 5 * statistics.median(counts)


def test_histories_are_very_short_and_very_long(service: dict[str, Rows]) -> None:
    lengths = [len(row["items"]) for row in service["viewings"]]
    assert 0.1 < sum(length <= 3 for length in lengths) / len(lengths) < 0.3
    assert sum(length >= 200 for length in lengths) >= 5
    assert 8 <= statistics.median(lengths) <= 16


def test_members_have_a_taste(service: dict[str, Rows]) -> None:
    """A member's first genre of choice takes far more of the second half than it does of everybody's."""
    known = titles(service)
    everybody = Counter(known[item]["genres"][0] for row in service["viewings"] for item in row["items"])
    own, common = [], []
    for row in service["viewings"]:
        if len(row["items"]) < 20:
            continue
        genres = [known[item]["genres"][0] for item in row["items"]]
        half = len(genres) // 2
        favourite = Counter(genres[:half]).most_common(1)[0][0]
        own.append(genres[half:].count(favourite) / len(genres[half:]))
        common.append(everybody[favourite] / everybody.total())
    assert statistics.mean(own) > 1.8 * statistics.mean(common)


def test_nobody_watches_beyond_the_limit_of_a_child(service: dict[str, Rows]) -> None:
    known = titles(service)
    highest = [
        max(MATURITY.index(known[item]["maturity"]) for item in row["items"])
        for row in service["viewings"]
        if len(row["items"]) >= 20
    ]
    shares = {limit: highest.count(limit) / len(highest) for limit in range(len(MATURITY))}
    assert all(shares[limit] > 0.02 for limit in range(1, len(MATURITY)))


def test_parts_are_watched_in_order(service: dict[str, Rows]) -> None:
    known = titles(service)
    parts = {(row["series"], row["part"]): row["id"] for row in service["items"] if "series" in row}
    prepared, next_at_once, chances = [], 0, 0
    for row in service["viewings"]:
        place = {item: number for number, item in enumerate(row["items"])}
        for item, following in pairwise(row["items"]):
            series, part = known[item].get("series"), known[item].get("part", 0)
            if part > 1:
                prepared.append(place.get(parts[series, part - 1], 10**9) < place[item])
            after = parts.get((series, part + 1))
            if after is not None and place.get(after, 10**9) > place[item]:
                chances += 1
                next_at_once += following == after
    assert len(prepared) > 1000
    assert statistics.mean(prepared) > 0.9
    assert next_at_once > 0.4 * chances


def test_the_next_title_can_be_learnt_beyond_popularity(service: dict[str, Rows]) -> None:
    """What followed the last title elsewhere finds the next one more than twice as often as popularity."""
    train = [row["items"][:-2] for row in service["viewings"]]
    popular = Counter(item for items in train for item in items)
    after: dict[str, Counter[str]] = {item: Counter() for item in popular}
    for items in train:
        for item, following in pairwise(items):
            after[item][following] += 1
    found = Counter[str]()
    for row in service["viewings"]:
        *seen, target = row["items"]
        if len(seen) < 2:
            continue
        unseen = [item for item in popular if item not in set(seen)]
        by_popularity = sorted(unseen, key=popular.__getitem__, reverse=True)[:10]
        last = after.get(seen[-1], Counter())
        by_last = sorted(unseen, key=lambda item: (last[item], popular[item]), reverse=True)[:10]
        found.update(popularity=target in by_popularity, last=target in by_last)
    assert found["last"] > 2 * found["popularity"] > 100


def test_chats_are_of_every_kind(service: dict[str, Rows]) -> None:
    chats = service["chats"]
    turns = [sum(message["role"] == "user" for message in chat["messages"]) for chat in chats]
    assert len(chats) == 1200
    assert len(service["chats-held-out"]) == 150
    assert statistics.mean(count > 1 for count in turns) > 0.3
    assert max(turns) >= 8
    assert 0.2 < statistics.mean(chat["messages"][0]["role"] == "system" for chat in chats) < 0.4
    assert 0.02 < statistics.mean("tools" in chat for chat in chats) < 0.1
    for chat in chats + service["chats-held-out"]:
        roles = [message["role"] for message in chat["messages"] if message["role"] != "system"]
        assert roles[0] == "user"
        assert roles[-1] == "assistant"
        assert ("tool" in roles) == ("tools" in chat)


def test_answers_are_true_to_the_catalogue(service: dict[str, Rows]) -> None:
    by_name = {row["title"]: row for row in service["items"]}
    answers = [
        m["content"] for chat in service["chats"] for m in chat["messages"] if m["role"] == "assistant"
    ]
    parts = [
        answer.split(", rated ")
        for answer in answers
        if answer.startswith("I recommend") and ", rated " in answer
    ]
    assert len(parts) > 100
    for named, maturity in parts:
        title = named.removeprefix("I recommend ").split(", ")[0]
        assert by_name[title]["maturity"] == maturity.rstrip(".")
