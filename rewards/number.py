"""1 where the last number of an answer is that of the row: `answer`, or what stands after its ####."""

import re
from collections.abc import Mapping
from typing import Any

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def reward(answer: str, row: Mapping[str, Any]) -> float:
    """As gsm8k's answers are told apart (Cobbe et al., 2021)."""
    wanted, found = last_number(str(row["answer"]).rpartition("####")[2]), last_number(answer)
    return float(found is not None and found == wanted)


def last_number(text: str) -> float | None:
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None
