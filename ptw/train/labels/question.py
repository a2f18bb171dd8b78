"""What is asked of an endpoint, and what may it cost?"""

from __future__ import annotations

from dataclasses import dataclass

from ptw.train.labels.bill import Bill, Price
from ptw.train.labels.endpoint import Reply
from ptw.train.labels.rows import Item
from ptw.train.labels.store import Key

PROOF = -1  # in place of an answer's number: whether the endpoint answers is all that is asked


@dataclass(frozen=True)
class Question:
    """An answer that is wanted; the tries for it, as an endpoint announces them, go on the bill."""

    key: Key
    item: Item
    most: float  # dollars of a try
    bill: Bill
    price: Price | None
    again: bool = False  # it failed once

    @property
    def is_proof(self) -> bool:
        return self.key[1] == PROOF

    def announce(self) -> bool:
        return self.bill.announce(self.key, self.most)

    def free(self) -> None:
        self.bill.settle(self.key, self.most, 0.0, known=True)

    def paid(self, input_tokens: int, output_tokens: int) -> None:
        usd = 0.0 if self.price is None else self.price.of(input_tokens, output_tokens)
        self.bill.settle(self.key, self.most, usd, known=True)

    def lost(self) -> None:
        self.bill.settle(self.key, self.most, self.most)

    def answered(self, reply: Reply) -> dict[str, float]:
        """What a label says of its cost. Without counts it is what it may have been."""
        given, made = reply.input_tokens, reply.output_tokens
        counts = {"input_tokens": given, "output_tokens": made}
        known: dict[str, float] = {name: count for name, count in counts.items() if count is not None}
        if self.price is None:
            return known
        usd = self.most if given is None or made is None else self.price.of(given, made)
        self.bill.settle(self.key, self.most, usd, known=self.is_proof)
        return known | {"usd": usd}
