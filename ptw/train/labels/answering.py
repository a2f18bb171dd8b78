"""What does a model that is here answer to a batch of prompts?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ptw.nn.decode import generate
from ptw.train.labels.rows import Text
from ptw.train.labels.store import Key

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling

SEEDS = 2**31  # what every endpoint takes


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn."""

    answers: int
    temperature: float
    max_new_tokens: int
    keep_cut_off: bool


def seed_of(seed: int, key: Key) -> int:
    """Of an answer: whatever it is drawn beside, and whoever draws it."""
    return random.Random(f"{seed} {key[0]} {key[1]}").randrange(SEEDS)


def cut_off(drawing: Drawing) -> str:
    return f"cut off after max_new_tokens = {drawing.max_new_tokens}"


def answers_of(
    run: Labelling, model: nn.Module, drawing: Drawing
) -> Callable[[list[Text]], list[dict[str, Any]]]:
    """Of each text of a batch its answer. Workers that hold the model between them go on together."""
    tokenizer, group = run.tokenizer, run.group
    stops, allowed = tokenizer.stop_ids, tokenizer.answer_ids

    def agreed(going: bool) -> bool:
        return group.sum(float(going))[0] > 0 if run.held_between else going

    def answer(texts: list[Text]) -> list[dict[str, Any]]:
        if not texts and not run.held_between:
            return []
        drawn = generate(
            model,
            [text.ids for text in texts] or [[0]],  # a worker without a text computes along
            drawing.max_new_tokens,
            stop_ids=stops,
            temperature=drawing.temperature,
            seed=[seed_of(run.settings.seed, text.key) for text in texts] or 0,
            allowed_ids=allowed,
            agreed=agreed,
        )
        return [said(text, new) for text, new in zip(texts, drawn, strict=False)]

    def said(text: Text, new: list[int]) -> dict[str, Any]:
        tokens = {"input_tokens": len(text.ids), "output_tokens": len(new)}
        ended = new[-1] in stops
        content = tokenizer.decode(new[:-1] if ended else new)
        message = {"role": "assistant", "content": content}
        fault = (
            cut_off(drawing) if not ended and not drawing.keep_cut_off else run.fault_of(text.item, message)
        )
        return {**({} if fault is None else {"refused": fault}), "message": message, **tokens}

    return answer
