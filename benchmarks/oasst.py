"""How do the conversation trees of oasst become chats, and the ranks of their answers preferences?"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

ROLES = {"prompter": "user", "assistant": "assistant"}


def write_chats(source: Path, train: Path, held_out: Path, every: int = 10) -> tuple[int, int]:
    """Writes one chat for each path from the root to a last answer; every n-th tree is held out, whole.

    Returns how many were written to each. Trees are kept whole, for their chats share messages.
    """
    return _write(
        lambda root: ({"messages": chat} for chat in chats(root, [])), source, train, held_out, every
    )


def write_pairs(source: Path, train: Path, held_out: Path, every: int = 10) -> tuple[int, int]:
    """Writes a preference for each two ranked answers to one message; trees as of `write_chats`."""
    return _write(lambda root: pairs(root, []), source, train, held_out, every)


def _write(
    rows_of: Callable[[dict[str, Any]], Iterable[dict[str, Any]]],
    source: Path,
    train: Path,
    held_out: Path,
    every: int,
) -> tuple[int, int]:
    counts = {train: 0, held_out: 0}
    trees = (source / "en_100_tree.jsonl").read_text(encoding="utf-8").splitlines()
    with train.open("w", encoding="utf-8") as to_train, held_out.open("w", encoding="utf-8") as to_hold:
        for number, line in enumerate(trees):
            path, file = (held_out, to_hold) if number % every == 0 else (train, to_train)
            for row in rows_of(json.loads(line)["prompt"]):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[path] += 1
    return counts[train], counts[held_out]


def pairs(message: dict[str, Any], before: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """The better and the worse of each two ranked answers that differ; rank 0 is the best."""
    so_far = [*before, {"role": ROLES[message["role"]], "content": message["text"]}]
    answers = [reply for reply in message["replies"] if reply["role"] == "assistant"]
    ranked = sorted((one for one in answers if one.get("rank") is not None), key=lambda one: one["rank"])
    for better, worse in combinations(ranked, 2):
        if better["rank"] < worse["rank"] and better["text"] != worse["text"]:
            yield {"prompt": so_far, "chosen": better["text"], "rejected": worse["text"]}
    for reply in message["replies"]:
        yield from pairs(reply, so_far)


def chats(message: dict[str, Any], before: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """The chats that end with an answer to which no answered question follows."""
    so_far = [*before, {"role": ROLES[message["role"]], "content": message["text"]}]
    longer = [chat for reply in message["replies"] for chat in chats(reply, so_far)]
    if longer:
        yield from longer
    elif message["role"] == "assistant":
        yield so_far
