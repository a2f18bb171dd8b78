"""What every test stands on: offline, one thread, and where the real data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# before torch, transformers and ray read them; the processes that tests start inherit them
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# the same examples every time, however busy the machine
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """This repository, which is a workspace too."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that PTW_DATA names; the test is skipped where there is none."""
    folder = Path(os.environ.get("PTW_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PTW_DATA to its folder")
    return folder.resolve()
