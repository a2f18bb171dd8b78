"""What is kept stays small: what nobody used for longest goes first."""

import os
from pathlib import Path

from ptw.verify.prune import prune, used


def entry(cache: Path, kind: str, name: str, age: int) -> Path:
    """1,000 bytes, last used `age` seconds ago: a folder of cases, or a file."""
    path = cache / kind / name
    file = path / "given" / "ids" if kind == "cases" else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(1000))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def test_what_is_oldest_goes_first_and_only_as_much_as_has_to(tmp_path: Path) -> None:
    old, young = entry(tmp_path, "cases", "old", 30), entry(tmp_path, "answers", "young", 10)
    middle, mine = entry(tmp_path, "answers", "middle", 20), entry(tmp_path, "mine", "other", 90)
    prune(tmp_path, 4000)
    assert old.exists()
    prune(tmp_path, 2500)
    assert not old.exists()
    assert middle.exists()
    assert young.exists()
    assert mine.exists()


def test_what_is_used_again_stays(tmp_path: Path) -> None:
    first, second = entry(tmp_path, "answers", "first", 30), entry(tmp_path, "answers", "second", 20)
    used(first)
    prune(tmp_path, 1000)
    assert first.exists()
    assert not second.exists()


def test_nothing_kept_is_nothing_to_do(tmp_path: Path) -> None:
    prune(tmp_path / "none")
