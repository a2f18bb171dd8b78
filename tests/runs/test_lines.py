"""A line is there whole or not at all."""

import resource
from pathlib import Path

import pytest

from ptw.errors import PtwError
from ptw.runs import lines


def test_a_line_that_fits_in_part_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines.append(path, {"step": 1})
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limit[1]))  # a full disk, without root
    try:
        with pytest.raises(PtwError, match="make room"):
            lines.append(path, {"step": 2, "text": "longer than ten bytes"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
