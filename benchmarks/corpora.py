"""Which chats are the real data sets, and how do they become a corpus of any size?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.oasst import chats

Row = dict[str, Any]


def oasst(folder: Path) -> Iterator[Row]:
    for line in _lines(folder / "en_100_tree.jsonl"):
        for messages in chats(line["prompt"], []):
            yield {"messages": messages}


def self_instruct(folder: Path) -> Iterator[Row]:
    for task in _lines(folder / "seed_tasks.jsonl"):
        for instance in task["instances"]:
            yield _chat(f"{task['instruction']}\n{instance['input']}".strip(), instance["output"])


def gsm8k(folder: Path) -> Iterator[Row]:
    for problem in _lines(folder / "train.jsonl"):
        yield _chat(problem["question"], problem["answer"])


def write_rows(rows: Iterator[Row], file: Path) -> int:
    """How many were written."""
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def many(rows: list[Row], size_bytes: int) -> Iterator[bytes]:
    """Lines of so many bytes in all: the rows over and over, each with its number in the first question."""
    written, number = 0, 0
    while written < size_bytes:
        first, *rest = rows[number % len(rows)]["messages"]
        asked = {**first, "content": f"{first['content']} ({number})"}
        line = json.dumps({"messages": [asked, *rest]}, ensure_ascii=False).encode() + b"\n"
        written, number = written + len(line), number + 1
        yield line


def _chat(question: str, answer: str) -> Row:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
    }


def _lines(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
