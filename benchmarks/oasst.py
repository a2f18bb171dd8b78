"""How do the conversation trees of oasst become chats?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROLES = {"prompter": "user", "assistant": "assistant"}


def write_chats(source: Path, train: Path, held_out: Path, every: int = 10) -> tuple[int, int]:
    """Writes one chat for each path from the root to a last answer; every n-th tree is held out, whole.

    Returns how many chats were written to each. Trees are kept whole, for their chats share messages.
    """
    counts = {train: 0, held_out: 0}
    trees = (source / "en_100_tree.jsonl").read_text(encoding="utf-8").splitlines()
    with train.open("w", encoding="utf-8") as to_train, held_out.open("w", encoding="utf-8") as to_hold:
        for number, line in enumerate(trees):
            path, file = (held_out, to_hold) if number % every == 0 else (train, to_train)
            for messages in chats(json.loads(line)["prompt"], []):
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
                counts[path] += 1
    return counts[train], counts[held_out]


def chats(message: dict[str, Any], before: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """The chats that end with an answer to which no answered question follows."""
    so_far = [*before, {"role": ROLES[message["role"]], "content": message["text"]}]
    longer = [chat for reply in message["replies"] for chat in chats(reply, so_far)]
    if longer:
        yield from longer
    elif message["role"] == "assistant":
        yield so_far
