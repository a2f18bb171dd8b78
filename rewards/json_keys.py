"""1 where the answer is a JSON object that has the keys of the row, `keys`; 0.5 where it is only JSON."""

import json
from collections.abc import Mapping
from typing import Any


def reward(answer: str, row: Mapping[str, Any]) -> float:
    try:
        found = json.loads(answer)
    except ValueError:
        return 0.0
    return 1.0 if isinstance(found, dict) and found.keys() >= set(row["keys"]) else 0.5
