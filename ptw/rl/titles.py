"""When are two titles the same?"""

import re

NUMBERING = re.compile(r"^\s*(?:\d+\s*[.)]|[-*•])\s+")


def plain(title: str) -> str:
    """Without its numbering, in small letters: how titles are compared."""
    return " ".join(NUMBERING.sub("", title).casefold().split())
