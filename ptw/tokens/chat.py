"""How does a tokenizer's chat template write a conversation, and how does it end an assistant's turn?"""

import re
import threading
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

import jinja2
import jinja2.meta
from transformers.utils.chat_template_utils import render_jinja_template

from ptw.errors import PtwError
from ptw.tokens.parts import Message, as_string, texts_of, writes_parts

_PROBE: list[Message] = [
    {"role": "user", "content": "first question"},
    {"role": "assistant", "content": "first answer"},
    {"role": "user", "content": "second question"},
    {"role": "assistant", "content": "second answer"},
]
THOUGHTS = frozenset({"reasoning_content", "reasoning", "thinking"})  # keys of what comes before an answer
_THOUGHT = "a first thought"
_QUESTION: list[Message] = [{"role": "user", "content": "question"}]
_IN_TURN = ("user", "assistant", "tool")  # all other roles open a chat
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# transformers compiles a template once for all, and notes inside of it where answers begin and end: of two
# threads at once each would write into the other's mask
_RENDERING = threading.Lock()
_CONSTANTS = {"messages", "tools", "documents", "add_generation_prompt"}


class Refused(PtwError):
    """The template raises on a chat."""


class Chat:
    """The chat template of one tokenizer; everything it writes is rendered by transformers."""

    def __init__(self, hf: Any, name: str, special_tokens: Sequence[str]) -> None:
        self._hf = hf
        self._name = name
        # the longest first, so that none hides in another
        specials = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)) or "(?!)")
        self._parts: dict[str, bool] = {}  # by role

    def text(
        self, messages: list[Message], tools: list[Any] | None = None, prompt: bool = False, **options: bool
    ) -> str:
        """The template's text; `prompt` adds what generation starts from. Refused: by the template."""
        self._require()
        messages = self._shaped(messages)
        try:
            return self._rendered(messages, tools=tools, add_generation_prompt=prompt, **options)
        except Exception as error:  # a template is foreign code
            raise self._refusal(error) from error

    def is_marked(self, tools: list[Any] | None) -> bool:
        """Whether the template says by {% generation %} what the assistant writes."""
        self._require()
        return bool(_GENERATION.search(self._hf.get_chat_template(None, tools)))

    def marked_text(
        self, messages: list[Message], tools: list[Any] | None
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the spans in characters that the template's {% generation %} blocks wrote."""
        messages = self._shaped(messages)
        try:
            with _RENDERING:
                texts, spans = render_jinja_template(
                    [messages],
                    tools=tools,
                    chat_template=self._hf.get_chat_template(None, tools),
                    return_assistant_tokens_mask=True,
                    **self._hf.special_tokens_map,
                )
        except Exception as error:  # a template is foreign code
            raise self._refusal(error) from error
        return texts[0], spans[0]

    @cached_property
    def options(self) -> tuple[dict[str, bool], ...]:
        """The ways to ask for a generation prompt: plainly, and with each switch for thinking."""
        self._require()
        template = self._hf.chat_template
        names: set[str] = set()
        for source in template.values() if isinstance(template, dict) else [template]:
            # the markers are an extension of transformers; they declare nothing
            plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
            environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
            names |= jinja2.meta.find_undeclared_variables(environment.parse(plain))
        switches = sorted(name for name in names - _CONSTANTS if "think" in name)
        return ({}, *({name: value} for name in switches for value in (False, True)))

    @cached_property
    def written_thoughts(self) -> frozenset[str]:
        """Those of THOUGHTS that are written of a last turn at least; all, if that can't be said."""
        *asked, answer = _PROBE
        try:
            texts = {key: self.text([*asked, answer | {key: _THOUGHT}]) for key in THOUGHTS}
        except PtwError:
            return THOUGHTS
        return frozenset(key for key, text in texts.items() if _THOUGHT in text)

    @cached_property
    def headers(self) -> tuple[str, ...]:
        """Of each of `options` what a generation prompt adds to a question; "" if that can't be said."""
        return tuple(self._header(options) for options in self.options)

    @cached_property
    def closing(self) -> str:
        """What ends an assistant's turn, up to and with the special token in it, if there is one."""
        text = self.text(_PROBE)
        try:
            between = text.split("first answer", 1)[1].split("second question", 1)[0]
            last = text.split("second answer", 1)[1]
        except IndexError:
            raise PtwError(
                f"the chat template of tokenizer {self._name} can't write two questions and answers; "
                "give the tokenizer a `chat_template` with {% generation %} markers"
            ) from None
        closing = self._through_special(
            _common(self._whole(between), self._whole(last))
        ) or self._through_special(last)
        if not closing:
            raise PtwError(
                f"the chat template of tokenizer {self._name} writes nothing after an assistant's answer: "
                "a model would never learn to stop; give the tokenizer a `chat_template` that ends turns"
            )
        return closing

    def closing_of(self, turn: str) -> tuple[int, int] | None:
        """Where what ends a last turn begins and ends: the closing, or else its last special token."""
        at = turn.rfind(self.closing)
        if at >= 0:
            return at, at + len(self.closing)
        spans = [match.span() for match in self._special.finditer(turn)]
        return spans[-1] if spans else None

    def is_special(self, text: str, at: int) -> bool:
        """Whether a special token stands there."""
        return self._special.match(text, at) is not None

    def _refusal(self, error: Exception) -> Refused:
        return Refused(f"the chat template of tokenizer {self._name} refuses this chat: {error}")

    def _rendered(self, messages: list[Message], **how: Any) -> str:
        with _RENDERING:
            return str(self._hf.apply_chat_template(messages, tokenize=False, **how))

    def _writes_parts(self, role: str) -> bool:
        """Some write those of a turn, and take a system's message for a string (Llama 3.2 Vision)."""
        if role not in self._parts:
            opening = [] if role in _IN_TURN else [{"role": role, "content": "instruction"}]
            self._parts[role] = writes_parts([*opening, *_PROBE], self._rendered)
        return self._parts[role]

    def _shaped(self, messages: list[Message]) -> list[Message]:
        """The messages as the template writes them: one part of text is the same as its string."""
        return [
            as_string(message, at, texts)
            if (texts := texts_of(message.get("content"))) and not self._writes_parts(message["role"])
            else message
            for at, message in enumerate(messages, start=1)
        ]

    def _header(self, options: dict[str, bool]) -> str:
        try:
            asked = self.text(_QUESTION, None, prompt=True, **options)
            plain = self.text(_QUESTION, None, **options)
        except PtwError:
            return ""  # a template may want more than a question, such as a system's message
        # a text that nothing is to follow may have an end of its own (phi-3)
        return asked[len(_common(self._whole(asked), self._whole(plain))) :]

    def _whole(self, text: str) -> list[str]:
        """The characters of `text`, each special token as one."""
        pieces, at = list[str](), 0
        for match in self._special.finditer(text):
            pieces += [*text[at : match.start()], match.group()]
            at = match.end()
        return [*pieces, *text[at:]]

    def _through_special(self, text: str) -> str:
        ends = [match.end() for match in self._special.finditer(text)]
        return text[: ends[-1]] if ends else text

    def _require(self) -> None:
        if not self._hf.chat_template:
            raise PtwError(
                f"tokenizer {self._name} has no chat template, which chats need; name a Jinja file in its "
                'table: chat_template = "chat.jinja"'
            )


def _common(one: list[str], other: list[str]) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
