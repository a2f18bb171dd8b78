"""How are all rows asked of an endpoint, many at once, each once, within a budget?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ptw.errors import PtwError
from ptw.train.count import Stopped
from ptw.train.labels.answering import Drawing, cut_off, seed_of
from ptw.train.labels.bill import Bill, Price, price_of
from ptw.train.labels.doubt import Doubts, Failure
from ptw.train.labels.endpoint import HINT, Broke, Endpoint, Failed, Interrupted, Reply
from ptw.train.labels.progress import Progress
from ptw.train.labels.question import PROOF, Question
from ptw.train.labels.rows import Item
from ptw.train.labels.store import Key, Stage

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling

TOLD_SECONDS = 0.5  # between two looks at how far all workers are


class Asking:
    """This worker's share of the answers of a stage that are not there yet.

    A question that fails is refused only where the endpoint answers another one after that, which it is
    asked for this alone where need be. Until then nothing is written of it: a run that goes on asks it again.
    """

    def __init__(self, run: Labelling, stage: Stage, drawing: Drawing) -> None:
        self._run, self._stage, self._drawing = run, stage, drawing
        settings, model = run.settings, run.plan.model
        self._price: Price | None = price_of(model, settings.budget_usd)
        self._bill = Bill(run.plan.run_folder(), run.group, stage, settings.budget_usd)
        self._endpoint = Endpoint(model, settings.timeout_seconds, settings.tries)
        self._questions = self._share()
        self._again = deque[Question]()  # after all others
        self._next: Question | None = next(self._questions, None)
        self._under_way: dict[Future[Reply], Question] = {}
        self._doubts = Doubts()
        self._answered: Item | None = None
        self._fault: str | None = None
        self._proving = self._broke = self._closing = self._told = False
        self._done = self._refused = self._tokens = 0  # since they were told last

    @property
    def usd(self) -> float | None:
        """What was spent until now, by all workers; None: there are no prices."""
        return None if self._price is None else self._bill.usd

    def run(self, progress: Progress) -> None:
        """Until all rows are answered or refused. PtwError: the budget is used up, or the endpoint is gone.

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

    def _share(self) -> Iterator[Question]:
        keys = (
            ((item.row, answer), item)
            for item in self._run.items()
            for answer in range(self._drawing.answers)
            if (item.row, answer) not in self._stage
        )
        for key, item in islice(keys, self._run.group.rank, None, self._run.group.world):
            yield self._question(key, item)

    def _question(self, key: Key, item: Item) -> Question:
        asked = [item.messages, item.tools]
        most = 0.0 if self._price is None else self._price.most(asked, self._drawing.max_new_tokens)
        return Question(key, item, most, self._bill, self._price)

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
        waits = (self._next is not None or len(self._doubts) > 0) and not self._closing and not self._broke
        flags = (
            self._closing or self._run.is_asked_to_stop(),
            self._fault is not None,
            self._broke,
            bool(self._under_way) or waits,
        )
        if self._endpoint.limited is not None and not self._told:
            self._told = True
            self._run.ledger.say(f"{self._endpoint.who}: {self._endpoint.limited}; it is waited for")
        done, refused, tokens = self._done, self._refused, self._tokens
        self._done = self._refused = self._tokens = 0
        return progress.add(done=done, refused=refused, tokens=tokens, usd=self._bill.since(), flags=flags)

    def _ask(self, pool: ThreadPoolExecutor) -> None:
        while self._may_ask and (question := self._following()) is not None:
            if not self._bill.affords(question.most):
                self._broke = not self._under_way  # else what is under way may cost less than it might
                return
            self._under_way[pool.submit(self._answer, question)] = question
            if question.is_proof:
                self._proving = True
            else:
                self._advance()

    @property
    def _may_ask(self) -> bool:
        ended = self._closing or self._broke or self._fault is not None
        return not ended and not self._proving and len(self._under_way) < self._run.settings.concurrency

    def _following(self) -> Question | None:
        """What is to be asked now: whether the endpoint answers at all, where that is in doubt."""
        all_asked = self._next is None and not self._under_way
        if self._doubts.many or (all_asked and len(self._doubts)):
            return self._proof()
        return self._next

    def _advance(self) -> None:
        self._next = next(self._questions, None)
        if self._next is None and self._again:
            self._next = self._again.popleft()

    def _proof(self) -> Question:
        """One that was answered before, by this worker or by another; where none was the shortest of all."""
        item = self._answered
        if item is None:
            row = self._stage.answered()
            items = self._run.items() if row is None else islice(self._run.items(), row, row + 1)
            item = min(items, key=lambda item: len(str(item.messages)))
        return self._question((item.row, PROOF), item)

    def _answer(self, question: Question) -> Reply:
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

    def _take(self, question: Question, future: Future[Reply]) -> None:
        self._proving = self._proving and not question.is_proof
        try:
            reply = future.result()
        except Broke:
            self._broke = True
        except Interrupted:
            pass  # it is asked again when the run goes on
        except PtwError as error:
            self._fault = self._fault or str(error)
        except Failed as error:
            self._doubt(question, error)
        else:
            self._answered = question.item
            self._decide(reply.asked)
            said = question.answered(reply)
            if not question.is_proof:
                self._write(question, self._said(question, reply) | said)

    def _doubt(self, question: Question, failed: Failed) -> None:
        if not question.is_proof:
            failure = Failure(question, str(failed), failed.requests, failed.rejected, time.monotonic())
            self._doubts.add(failure)
            return
        if not len(self._doubts):
            return  # others were answered meanwhile
        first = self._doubts.first.question.item.place
        why = f"it answers nothing, from {first} on, nor {question.item.place} when asked to see: {failed}"
        self._fault = self._fault or f"{self._endpoint.who}: {why}; {HINT}"

    def _decide(self, asked: float) -> None:
        """The endpoint answers a request of this time: what failed before it did so by itself."""
        for failure in self._doubts.decided(asked):
            if failure.is_final:
                self._write(failure.question, {"refused": failure.reason})
            else:
                self._again.append(replace(failure.question, again=True))
        if self._next is None and self._again:
            self._next = self._again.popleft()

    def _said(self, question: Question, reply: Reply) -> dict[str, Any]:
        refused = reply.refused
        if refused is None and reply.cut_off and not self._drawing.keep_cut_off:
            refused = cut_off(self._drawing)
        refused = refused or self._run.fault_of(question.item, reply.message)
        return {**({} if refused is None else {"refused": refused}), "message": reply.message}

    def _write(self, question: Question, said: dict[str, Any]) -> None:
        self._stage.add(question.key, said)
        self._done += 1
        self._refused += "refused" in said
        self._tokens += said.get("input_tokens", 0) + said.get("output_tokens", 0)

    def _demand_money(self, progress: Progress) -> None:
        run = self._run
        raise PtwError(
            f"settings: budget_usd = {run.settings.budget_usd}: ${progress.usd:.4f} is spent, or may be, and "
            f"{progress.done:,} of {progress.total:,} are labelled; go on with "
            f"`ptw train {run.plan.recipe} --resume --set budget_usd=...`"
        )
