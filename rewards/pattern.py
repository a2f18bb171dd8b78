"""1 where a regular expression of the row, `pattern`, is found in the answer."""

import re
from collections.abc import Mapping
from typing import Any


def reward(answer: str, row: Mapping[str, Any]) -> float:
    return float(re.search(row["pattern"], answer) is not None)
