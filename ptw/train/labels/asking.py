"""How are all rows asked of an endpoint, many at once, each once, within a budget?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ptw.errors import PtwError
from ptw.train.count import Stopped
from ptw.train.labels.answering import Drawing, cut_off, seed_of
from ptw.train.labels.bill import Bill, Price, price_of
from ptw.train.labels.endpoint import Broke, Endpoint, Interrupted, Rejected, Reply
from ptw.train.labels.progress import Progress
from ptw.train.labels.rows import Item
from ptw.train.labels.store import Key, Stage

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling

TOLD_SECONDS = 0.5  # between two looks at how far all workers are
MOST_REJECTED = 20  # requests before the first answer: then it is no row that is at fault


@dataclass(frozen=True)
class _Question:
    """An answer that is wanted, and what it may cost; the tries for it, as an endpoint announces them."""

    key: Key
    item: Item
    most: float
    bill: Bill

    def announce(self) -> bool:
        return self.bill.announce(self.key, self.most)

    def free(self) -> None:
        self.bill.settle(self.key, self.most, 0.0, free=True)

    def lost(self) -> None:
        self.bill.settle(self.key, self.most, self.most)


class Asking:
    """This worker's share of the answers of a stage that are not there yet."""

    def __init__(self, run: Labelling, stage: Stage, drawing: Drawing) -> None:
        self._run, self._stage, self._drawing = run, stage, drawing
        settings, model = run.settings, run.plan.model
        self._price: Price | None = price_of(model, settings.budget_usd)
        self._bill = Bill(run.plan.run_folder(), run.group, stage, settings.budget_usd)
        self._endpoint = Endpoint(model, settings.timeout_seconds, settings.tries)
        self._questions = self._share()
        self._next: _Question | None = next(self._questions, None)
        self._under_way: dict[Future[Reply], _Question] = {}
        self._rejected: list[tuple[_Question, str]] = []  # before the first answer
        self._answered = len(stage) > 0
        self._fault: str | None = None
        self._broke = self._closing = False
        self._done = self._tokens = 0  # since they were told last

    @property
    def usd(self) -> float | None:
        """What was spent until now, by all workers; None: there are no prices."""
        return None if self._price is None else self._bill.usd

    def run(self, progress: Progress) -> None:
        """Until all rows are answered. PtwError: the budget is used up, or the endpoint is gone or refuses.

        What is under way when the run is to end is paid for, so it is waited for and written down.
        """
        with ThreadPoolExecutor(self._run.settings.concurrency) as pool:
            try:
                busy = True
                while busy:
                    self._work(pool)
                    stops, faults, broke, busy = self._tell(progress)
                    if stops or faults:
                        self._closing = True
                        self._endpoint.ending.set()
            finally:
                self._endpoint.ending.set()  # nobody waits for another try
        self._endpoint.close()
        for fault in self._run.group.gathered(self._fault) if faults else ():
            if fault is not None:
                raise PtwError(fault)
        if stops:
            raise Stopped
        if broke:
            self._demand_money(progress)

    def _share(self) -> Iterator[_Question]:
        keys = (
            ((item.row, answer), item)
            for item in self._run.items()
            for answer in range(self._drawing.answers)
            if (item.row, answer) not in self._stage
        )
        for key, item in islice(keys, self._run.group.rank, None, self._run.group.world):
            asked = [item.messages, item.tools]
            most = 0.0 if self._price is None else self._price.most(asked, self._drawing.max_new_tokens)
            yield _Question(key, item, most, self._bill)

    def _work(self, pool: ThreadPoolExecutor) -> None:
        """Ask, and write down what is answered, for a moment."""
        until = time.monotonic() + TOLD_SECONDS
        self._ask(pool)
        while self._under_way and (left := until - time.monotonic()) > 0:
            for future in wait(self._under_way, left, FIRST_COMPLETED).done:
                self._take(self._under_way.pop(future), future)
            self._ask(pool)

    def _tell(self, progress: Progress) -> list[bool]:
        """Of any worker: whether to stop, whether it has a fault, is broke, or has work left."""
        waits = self._next is not None and not self._closing and not self._broke
        if self._next is None and not self._under_way and not self._closing and self._fault is None:
            self._write_rejected()  # all were asked, so that these were at fault themselves
        flags = (
            self._closing or self._run.is_asked_to_stop(),
            self._fault is not None,
            self._broke,
            bool(self._under_way) or waits,
        )
        done, tokens, self._done, self._tokens = self._done, self._tokens, 0, 0
        return progress.add(done=done, tokens=tokens, usd=self._bill.since(), flags=flags)

    def _ask(self, pool: ThreadPoolExecutor) -> None:
        closed = self._closing or self._fault is not None or self._broke
        while not closed and self._next is not None and len(self._under_way) < self._run.settings.concurrency:
            if not self._bill.affords(self._next.most):
                self._broke = not self._under_way  # else what is under way may cost less than it might
                return
            self._under_way[pool.submit(self._answer, self._next)] = self._next
            self._next = next(self._questions, None)

    def _answer(self, question: _Question) -> Reply:
        drawing, item = self._drawing, question.item
        seed = {"seed": seed_of(self._run.settings.seed, question.key)} if drawing.temperature else {}
        return self._endpoint.answer(
            item.messages,
            item.tools,
            drawing.max_new_tokens,
            question,
            temperature=drawing.temperature,
            **seed,
        )

    def _take(self, question: _Question, future: Future[Reply]) -> None:
        try:
            reply = future.result()
        except Broke:
            self._broke = True
        except Interrupted:
            pass  # it is asked again when the run goes on
        except PtwError as error:
            self._fault = self._fault or str(error)
        except Rejected as error:
            self._reject(question, str(error))
        else:
            self._answered = True
            self._write_rejected()
            self._write(question, self._said(question, reply))

    def _said(self, question: _Question, reply: Reply) -> dict[str, Any]:
        refused = reply.refused
        if refused is None and reply.cut_off and not self._drawing.keep_cut_off:
            refused = cut_off(self._drawing)
        refused = refused or self._run.fault_of(question.item, reply.message)
        counts = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
        said = {**({} if refused is None else {"refused": refused}), "message": reply.message}
        known = {name: count for name, count in counts.items() if count is not None}
        if self._price is None:
            return said | known
        whole = len(known) == len(counts)
        usd = self._price.of(known["input_tokens"], known["output_tokens"]) if whole else question.most
        self._bill.settle(question.key, question.most, usd)
        return said | known | {"usd": usd}

    def _reject(self, question: _Question, reason: str) -> None:
        """Before the first answer it is kept in mind only: perhaps no request is right."""
        self._rejected.append((question, reason))
        if self._answered:
            self._write_rejected()
        elif len(self._rejected) >= MOST_REJECTED:
            first, why = self._rejected[0]
            self._fault = self._fault or (
                f"{self._endpoint.who}: it rejects every request, that of {first.item.place} with {why}"
            )

    def _write_rejected(self) -> None:
        for question, reason in self._rejected:
            self._write(question, {"refused": reason})
        self._rejected.clear()

    def _write(self, question: _Question, said: dict[str, Any]) -> None:
        self._stage.add(question.key, said)
        self._done += 1
        self._tokens += said.get("input_tokens", 0) + said.get("output_tokens", 0)

    def _demand_money(self, progress: Progress) -> None:
        run = self._run
        raise PtwError(
            f"settings: budget_usd = {run.settings.budget_usd}: ${progress.usd:.4f} is spent, or may be, and "
            f"{progress.done:,} of {progress.total:,} are labelled; go on with "
            f"`ptw train {run.plan.recipe} --resume --set budget_usd=...`"
        )
