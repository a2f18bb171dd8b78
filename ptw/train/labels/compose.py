"""What becomes of a row, its answers and their scores? Rows to declare as a dataset, or refused ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptw.train.labels.rows import Item
from ptw.train.labels.store import Stage

Line = dict[str, Any]
COUNTED = ("input_tokens", "output_tokens", "usd")


@dataclass(frozen=True)
class Answered:
    """One answer to a row, and its score, where there is a judge."""

    number: int
    said: Mapping[str, Any]
    scored: Mapping[str, Any]

    @property
    def refused(self) -> str | None:
        return self.said.get("refused") or self.scored.get("refused")

    @property
    def worth(self) -> float:
        return float(self.scored["worth"])


def answered(item: Item, answers: Stage, scores: Stage | None) -> list[Answered]:
    """Its answers, in order."""
    return [
        Answered(key[1], said, scores[key] if scores is not None and key in scores else {})
        for key, said in answers.of(item.row)
    ]


def every(item: Item, found: Sequence[Answered]) -> Iterator[Line]:
    """Each answer as a chat, with its rating where there is one."""
    for one in found:
        if one.refused is None:
            yield {**_chat(item, one), "draw": one.number, **_origin(item, [one.said])}
        else:
            said = {"message": one.said["message"]} if "message" in one.said else {}
            yield _refused(item, one.refused, [one], draw=one.number, **said)


def best(item: Item, found: Sequence[Answered]) -> Iterator[Line]:
    """The best of the answers as a chat."""
    good = _good(found)
    if good:
        yield {**_chat(item, good[0]), "draw": good[0].number, **_costs(item, found)}
    else:
        yield _refused(item, f"all {len(found)} answers: {found[0].refused}", found)


def pair(item: Item, found: Sequence[Answered]) -> Iterator[Line]:
    """The best and the worst of the answers as a preference."""
    good = _good(found)
    if len(good) < 2:
        why = next(one.refused for one in found if one.refused is not None)
        yield _refused(item, f"{len(good)} of {len(found)} answers can be used: {why}", found)
        return
    chosen, rejected = good[0], good[-1]
    if chosen.said["message"] == rejected.said["message"] or chosen.worth == rejected.worth:
        yield _refused(item, f"the judge prefers none of its {len(good)} answers", found)
        return
    yield {
        **item.rest,
        "prompt": item.messages,
        "chosen": [chosen.said["message"]],
        "rejected": [rejected.said["message"]],
        "chosen_rating": chosen.scored["rating"],
        "rejected_rating": rejected.scored["rating"],
        **_costs(item, found),
    }


def rated(item: Item, scores: Stage) -> Iterator[Line]:
    """A chat with its rating."""
    said = scores[item.row, 0]
    line = {**item.rest, "messages": item.messages}
    if "refused" in said:
        yield {**line, "refused": said["refused"], **_origin(item, [said])}
    else:
        yield {**line, "rating": said["rating"], **_origin(item, [said])}


def _good(found: Sequence[Answered]) -> list[Answered]:
    """The best first; of equal ones the first that was drawn."""
    return sorted((one for one in found if one.refused is None), key=lambda one: (-one.worth, one.number))


def _chat(item: Item, one: Answered) -> Line:
    rating = {"rating": one.scored["rating"]} if one.scored else {}
    return {**item.rest, "messages": [*item.messages, one.said["message"]], **rating}


def _refused(item: Item, reason: str, found: Sequence[Answered], **more: Any) -> Line:
    """As a row of prompts, so that it can be asked again with other settings."""
    return {**item.rest, "prompt": item.messages, **more, "refused": reason, **_costs(item, found)}


def _costs(item: Item, found: Sequence[Answered]) -> Line:
    return _origin(item, [one.said for one in found])


def _origin(item: Item, said: Sequence[Mapping[str, Any]]) -> Line:
    """Where the row comes from, and what all that was said of it cost."""
    counted = {key: [one[key] for one in said if one.get(key) is not None] for key in COUNTED}
    return {"source": item.place, "cost": {key: sum(values) for key, values in counted.items() if values}}
