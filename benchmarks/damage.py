"""How is a file damaged, and what may come of it?"""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """`ended`: refused by a PtwError, read to its end, or what must not be."""

    kind: str
    ended: str
    told: str


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Cut off, flipped, overwritten, doubled, in another order, or empty."""
    data = bytearray(content)
    match draw.randrange(6):
        case 0:
            return bytes(data[: draw.randrange(len(data))])
        case 1:
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case 2:
            at = draw.randrange(len(data))
            data[at : at + draw.randint(1, 400)] = draw.randbytes(draw.randint(0, 400))
        case 3:
            return b""
        case 4:
            return bytes(data + data[: draw.randrange(len(data))])
        case _:
            at = draw.randrange(len(data))
            return bytes(data[at:] + data[:at])
    return bytes(data)
