"""What is a recipe handed that labels? Its rows, and what a model says of each, once, on many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ptw.data.messages import require_all
from ptw.data.render import render
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.chat import Message
from ptw.train.count import Stopped
from ptw.train.facts import demand_tokenizer, tokenizer_of
from ptw.train.group import Group
from ptw.train.labels.answering import Drawing, answers_of
from ptw.train.labels.asking import Asking
from ptw.train.labels.progress import Progress
from ptw.train.labels.room import demand_room, too_long
from ptw.train.labels.rows import Item, Text, batches, items, pending
from ptw.train.labels.scoring import scores_of
from ptw.train.labels.settings import OF_A_MODEL, OF_AN_ENDPOINT, LabelSettings
from ptw.train.labels.store import Stage
from ptw.train.ledger import Ledger
from ptw.train.parallel import spreading
from ptw.train.plan import Plan
from ptw.train.roles import open_frozen
from ptw.workspace.manifest import ModelEntry

Say = Callable[[list[Text]], list[dict[str, Any]]]  # of the texts of a batch, which may be none


class Labelling:
    """State of a run that labels, in one worker. All methods are called by all workers together."""

    def __init__(
        self, plan: Plan, settings: LabelSettings, group: Group, stopping: Callable[[], bool]
    ) -> None:
        settings.demand_sense()
        self.plan = plan
        self.settings = settings
        self.group = group
        self.ledger = Ledger(plan.run_folder(), group)
        self.dataset = plan.datasets[plan.dataset]
        self._stopping = stopping
        self._demand_sense()
        self.tokenizer = tokenizer_of(plan, self.ledger)
        demand_tokenizer(plan, self.tokenizer)
        self.rows = sum(1 for _ in self.items())  # what is wrong with one is said before any is paid for
        self._progress: Progress | None = None

    @property
    def steps_done(self) -> int:
        """What was said until now."""
        return 0 if self._progress is None else self._progress.done

    @property
    def spent_usd(self) -> float | None:
        """What the run has cost, or may have, answers that were lost included; None: nobody knows."""
        return None if self._progress is None else self._progress.usd

    @property
    def by_endpoint(self) -> bool:
        """Whether the teacher is not here."""
        return self.plan.model.endpoint is not None

    def items(self) -> Iterator[Item]:
        """Every row of the dataset, in order."""
        return items(self.plan.root, self.dataset)

    def answers(self, drawing: Drawing, judged: bool) -> Stage:
        """So many answers of the plan's model to each row: each a message, or why it is refused."""
        stage = self._stage("answers")
        total = self.rows * drawing.answers
        if self.by_endpoint:
            asking = Asking(self, stage, drawing)
            self._progress = self._begun(total * (1 + judged), stage, asking.usd)
            asking.run(self._progress)
            stage.refresh()
            return stage
        room = self._room(drawing)
        demand_room(self, stage, lambda item: self._ids(item, [], prompt=True), room)
        self._progress = self._begun(total * (1 + judged), stage, None)
        self._say(
            stage,
            self._texts(stage, self._prompts(drawing.answers), room),
            lambda: answers_of(self, self._opened(self.plan.model, "model"), drawing),
        )
        return stage

    def scores(self, model: ModelEntry, role: str, answers: Stage | None = None) -> Stage:
        """What a model of scores says of each chat, or of each answer that is not refused."""
        stage = self._stage("scores")
        if answers is not None:
            assert self._progress is not None
            self._progress.done += answers.refused + len(stage)
            self._progress.refused = answers.refused + stage.refused
        else:
            demand_room(self, stage, lambda item: self._ids(item, []), self.settings.window)
            self._progress = self._begun(self.rows, stage, None)
        self._say(
            stage,
            self._texts(stage, self._chats(answers), self.settings.window),
            lambda: scores_of(self, self._opened(model, role, gives_scores=True)),
        )
        return stage

    def fault_of(self, item: Item, message: Message) -> str | None:
        """Why training would refuse the chat with this answer, if it would."""
        if not message.get("content") and not message.get("tool_calls"):
            return "the answer is empty"
        chat = {**item.rest, "messages": [*item.messages, message]}
        try:
            render(Row("", chat), replace(self.dataset, format="chat"), self.tokenizer)
        except PtwError as error:
            return str(error).removeprefix(": ")
        return None

    def is_asked_to_stop(self) -> bool:
        """Whether this worker is: all must agree before any does."""
        return self._stopping()

    def computing(self) -> AbstractContextManager[Any]:
        """The models here are frozen, and were loaded in the run's precision."""
        return nullcontext()

    @property
    def held_between(self) -> bool:
        """Whether the workers must compute together, since no one of them has all of a model."""
        return self.plan.cluster.replicas < self.group.world

    def _demand_sense(self) -> None:
        plan, settings = self.plan, self.settings
        if self.dataset.mix:
            parts = ", ".join(share.dataset.name for share in self.dataset.mix)
            raise PtwError(
                f"dataset {self.dataset.name} is a mix, and labels are of one: name one of {parts}"
            )
        if plan.eval_dataset is not None:
            raise PtwError(f"recipe {plan.recipe}: nothing is learnt: remove eval_dataset")
        if self.group.tensor > 1:
            raise PtwError(f"cluster {plan.cluster.name}: each worker labels rows of its own: set tensor = 1")
        if not self.by_endpoint:
            settings.demand_unset(OF_AN_ENDPOINT, f"on model {plan.model.name}, which is here")
        elif not plan.roles:  # else a judge is here
            settings.demand_unset(OF_A_MODEL, f"on model {plan.model.name}, which is behind an endpoint")

    def _begun(self, total: int, stage: Stage, usd: float | None) -> Progress:
        if len(stage):
            self.ledger.say(f"{len(stage):,} of {total:,} are labelled already")
        return Progress(self.ledger, self.group, total, len(stage), stage.refused, usd)

    def _stage(self, name: str) -> Stage:
        return Stage(self.plan.run_folder(), name, self.group)

    def _opened(self, model: ModelEntry, role: str, gives_scores: bool = False) -> nn.Module:
        """Each worker has all of the model, unless the cluster's plan says that they hold it between them."""
        spread = None
        if self.held_between:
            who = f"model {model.name} ({role})"
            spread = spreading(self.plan.cluster, self.group, self.settings.precision, who)
        return open_frozen(self, model, role, spread, gives_scores)

    def _room(self, drawing: Drawing) -> int:
        """The ids that a prompt may have."""
        room = self.settings.window - drawing.max_new_tokens
        if room < 1:
            raise PtwError(
                f"settings: max_new_tokens = {drawing.max_new_tokens}: window = {self.settings.window} has "
                "no room for a prompt; widen the window, or lower max_new_tokens"
            )
        return room

    def _prompts(self, answers: int) -> Iterator[Text]:
        for item in self.items():
            ids = self._ids(item, [], prompt=True)
            yield from (Text((item.row, answer), ids, item) for answer in range(answers))

    def _chats(self, answers: Stage | None) -> Iterator[Text]:
        """The chats of the dataset, or its prompts with each of their answers."""
        for item in self.items():
            if answers is None:
                yield Text((item.row, 0), self._ids(item, []), item)
                continue
            for key, said in answers.of(item.row):
                if "refused" not in said:
                    yield Text(key, self._ids(item, [said["message"]]), item)

    def _ids(self, item: Item, answer: list[Message], prompt: bool = False) -> list[int]:
        messages = [*item.messages, *answer]
        try:
            ids = self.tokenizer.chat(messages, item.tools, prompt)
            require_all(messages, item.tools, self.tokenizer.template.text(messages, item.tools, prompt))
        except PtwError as error:
            raise PtwError(f"{item.place}: {error}") from error
        return ids

    def _texts(self, stage: Stage, texts: Iterator[Text], room: int) -> Iterator[Text]:
        """Those that there is room for. A longer one is refused: of the rows themselves none is here that
        too_long does not drop, and an answer that was paid for is not lost to another one.
        """
        assert self._progress is not None
        for text in texts:
            if len(text.ids) <= room:
                yield text
                continue
            if text.key not in stage:
                self._progress.done += 1
                self._progress.refused += 1
                if text.key[0] % self.group.world == self.group.rank:
                    stage.add(text.key, {"refused": too_long(text.ids, room), "input_tokens": 0})

    @torch.no_grad()
    def _say(self, stage: Stage, texts: Iterator[Text], opened: Callable[[], Say]) -> None:
        """In rounds, each worker a batch; the model is opened only where there is something to say."""
        say: Say | None = None
        group, progress = self.group, self._progress
        assert progress is not None
        share = pending(
            batches(texts, self.settings.rows_at_once), stage.__contains__, group.rank, group.world
        )
        for own in share:
            say = say or opened()
            said = say(own)
            for text, values in zip(own, said, strict=True):
                stage.add(text.key, values)
            new = [values for text, values in zip(own, said, strict=True) if text.key not in stage]
            tokens = sum(values["input_tokens"] + values.get("output_tokens", 0) for values in said)
            refused = sum("refused" in values for values in new)
            (stop,) = progress.add(done=len(new), refused=refused, tokens=tokens, flags=(self._stopping(),))
            if stop:
                raise Stopped
        stage.refresh()
