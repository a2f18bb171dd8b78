"""Processes that a test must see end, without a race against their end."""

import psutil


def below(process: int) -> dict[int, str]:
    """Its children and theirs: the command line of each."""
    found = {}
    for child in psutil.Process(process).children(recursive=True):
        try:
            found[child.pid] = " ".join(child.cmdline())
        except psutil.NoSuchProcess:  # ended since
            continue
    return found


def is_gone(process: int) -> bool:
    """Ended, though perhaps nobody has asked how."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
