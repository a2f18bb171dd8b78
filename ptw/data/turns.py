"""Which ids of a rendered chat did the assistant write?

Where the template has {% generation %} markers, they say it. Elsewhere a turn is learnt where the whole text
goes on from the prompt that generation would start from, with what generation would have to write. A turn
that the template reshapes once others follow (its thinking is stripped) is context only.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ptw.errors import PtwError
from ptw.tokens.chat import THOUGHTS, Chat, Message, Refused
from ptw.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class RenderedChat:
    """The template's own ids of a chat; `learn` marks what the assistant wrote.

    `context` of its turns are not learnt; of `unsaid` the template never writes what was thought.
    """

    text: str
    ids: np.ndarray
    learn: np.ndarray
    context: int = 0
    unsaid: int = 0


@dataclass(frozen=True)
class _Text:
    """A text, its ids, and where in the text each begins and ends."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]
    starts: list[int]


def render_chat(
    tokenizer: Tokenizer, messages: list[Message], tools: list[Any] | None, since: int = 0
) -> RenderedChat:
    """What is learnt begins with message `since`, counted from 0.

    PtwError: what the template refuses, a mask that can't be proven, or nothing to learn.
    """
    rendered = _marked_chat if tokenizer.template.is_marked(tools) else _proven_chat
    unsaid = _unsaid(tokenizer, messages[since:])
    return replace(rendered(tokenizer, messages, tools, since), unsaid=unsaid)


def _proven_chat(
    tokenizer: Tokenizer, messages: list[Message], tools: list[Any] | None, since: int
) -> RenderedChat:
    text = tokenizer.template.text(messages, tools)
    whole = _encoded(tokenizer, text)
    learn, context, refused = np.zeros(len(whole.ids), dtype=bool), 0, ""
    for at, message in enumerate(messages):
        if message["role"] == "assistant" and at >= since:
            try:
                span = _learnt_span(tokenizer, messages, tools, at, text)
            except Refused as error:  # the whole is written, but not up to here (no user yet)
                span, refused = None, f" (up to message {at + 1}: {error})"
            if span is None:
                context += 1
            else:
                begin, end = (_boundary(tokenizer, whole, place, at) for place in span)
                learn[begin:end] = True
    if not learn.any():
        raise PtwError(
            "nothing to learn: the chat template doesn't go on from its own generation prompt with any "
            "answer as it stands here; give the tokenizer a `chat_template` with {% generation %} markers"
            f"{refused}"
        )
    return RenderedChat(text, np.array(whole.ids, dtype=np.int32), learn, context)


def _unsaid(tokenizer: Tokenizer, messages: list[Message]) -> int:
    """The assistant's turns of which no thinking is ever written."""
    thought = [{key for key in THOUGHTS if turn.get(key)} for turn in messages if turn["role"] == "assistant"]
    return sum(keys.isdisjoint(tokenizer.template.written_thoughts) for keys in thought if keys)


def _learnt_span(
    tokenizer: Tokenizer, messages: list[Message], tools: list[Any] | None, at: int, text: str
) -> tuple[int, int] | None:
    """From which to which character the answer of message `at` stands in `text`; None: context only.

    Refused: the template writes no chat that ends there, so that no answer is generated there.
    """
    template = tokenizer.template
    as_last = text if at == len(messages) - 1 else template.text(messages[: at + 1], tools)
    prompts = _prompts(template, messages[:at], tools, as_last)
    headed = max((len(prompt) for prompt in prompts if as_last.startswith(prompt)), default=None)
    begin = max((len(prompt) for prompt in prompts if text.startswith(prompt)), default=None)
    if headed is None or begin is None:
        return None
    turn = as_last[headed:]
    closing = template.closing_of(turn)
    if closing is None:
        raise PtwError(f"message {at + 1}: the chat template doesn't end this turn with {template.closing!r}")
    said, end = closing
    if text.startswith(turn[:end], begin):
        return begin, begin + end
    # once others follow, a turn may end with another token (gpt-oss): it is learnt up to there
    same = said > 0 and text.startswith(turn[:said], begin) and template.is_special(text, begin + said)
    return (begin, begin + said) if same else None


def _prompts(template: Chat, asked: list[Message], tools: list[Any] | None, as_last: str) -> list[str]:
    """What generation may start from after `asked`; the header of a thinking switch is no answer."""
    if not asked:  # no template renders no message: the header is found in the text
        heads = [header for header in template.headers if header and header in as_last]
        return [as_last[: as_last.index(header) + len(header)] for header in heads]
    prompts = [template.text(asked, tools, prompt=True, **options) for options in template.options]
    own, *others = template.headers
    if not own or not prompts[0].endswith(own):
        return prompts
    # a switch may change what stands before the chat too (Qwen3.8): its header is still none of the answer
    return prompts + [prompts[0].removesuffix(own) + header for header in others]


def _boundary(tokenizer: Tokenizer, whole: _Text, place: int, at: int) -> int:
    """How many ids stand for the text before `place`.

    Proven: up to there the text alone gives the same ids. Added tokens split a text before all else,
    so that it is enough to prove from the last one on.
    """
    count = bisect_left(whole.starts, place)
    anchor = count - 1
    while anchor > 0 and whole.ids[anchor] not in tokenizer.added_ids:
        anchor -= 1
    anchor = max(anchor, 0)
    start = 0 if anchor == 0 else whole.starts[anchor]
    if tokenizer.encode(whole.text[start:place]) != whole.ids[anchor:count]:
        around = whole.text[max(place - 12, 0) : place + 12]
        raise PtwError(
            f"message {at + 1}: a token crosses the border between the template's text and the answer, at "
            f"{around!r}, so that a prompt's ids would not be those trained on; strip the white space around "
            "the answer, or end the header with a special token in a `chat_template`"
        )
    return count


def _marked_chat(
    tokenizer: Tokenizer, messages: list[Message], tools: list[Any] | None, since: int
) -> RenderedChat:
    """As return_assistant_tokens_mask, but where a token's span leaves out its space, nothing is lost."""
    text, blocks = tokenizer.template.marked_text(messages, tools)
    if since:
        blocks = blocks[len(tokenizer.template.marked_text(messages[:since], tools)[1]) :]
    whole = _encoded(tokenizer, text)
    learn = np.zeros(len(whole.ids), dtype=bool)
    for begin, end in blocks:
        first = bisect_left(whole.starts, begin)
        # an earlier token may reach into the block
        while first > 0 and whole.spans[first - 1][1] > begin:
            first -= 1
        learn[first : bisect_left(whole.starts, end)] = begin < end
    if not learn.any():
        raise PtwError(
            "nothing to learn: the chat template's {% generation %} blocks wrote nothing in this chat"
        )
    return RenderedChat(text, np.array(whole.ids, dtype=np.int32), learn)


def _encoded(tokenizer: Tokenizer, text: str) -> _Text:
    ids, spans = tokenizer.encode_with_starts(text)
    return _Text(text, ids, spans, [span[0] for span in spans])
