"""What is the model told after an answer, and which ids are that?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ptw.data.messages import messages_of, require_all
from ptw.errors import PtwError
from ptw.rl.caller import Caller, files_of
from ptw.rl.rewards import Messages, Row
from ptw.tokens.chat import Message
from ptw.tokens.tokenizer import Tokenizer

ASKED = {"role": "user", "content": "a question"}
SAID = {"role": "assistant", "content": "an answer"}


class Environment:
    """`turn(messages, row)` of a file of rewards/: the text of a user's turn, a message, or None to end."""

    def __init__(self, root: Path, name: str, tokenizer: Tokenizer, caller: Caller) -> None:
        self._file = files_of(root, "environment", [name], "turn", "messages: list[dict], row: dict")[name]
        self._caller = caller
        self._continuation = Continuation(tokenizer)

    @property
    def end(self) -> int:
        """The id that ends an answer which a conversation can go on from."""
        return self._continuation.end

    def turn(self, messages: Messages, row: Row, place: str) -> tuple[Message, list[int]] | None:
        """A message and its ids, up to where the next answer begins. PtwError names file and row."""
        answer = str(messages[-1]["content"])
        told = self._caller.value(self._file, "turn", place, answer, list(messages), dict(row))
        if told is None:
            return None
        try:
            if not isinstance(told, str | Mapping):
                raise PtwError(f"turn gave {type(told).__name__}; it gives a text, a message, or None")
            message = {"role": "user", "content": told} if isinstance(told, str) else dict(told)
            (message,) = messages_of([message])
            return message, self._continuation.ids(message)
        except PtwError as error:
            raise PtwError(f"rewards/{self._file.name}: {place}: {error}") from error


class Continuation:
    """A chat's ids from the one that ended an answer on: appended to those that were drawn, never drawn anew.

    They are what the chat template writes after any answer, so that nothing before is tokenised again, and no
    template can reshape it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._closing = tokenizer.template.closing
        self._closing_ids = tokenizer.encode(self._closing)
        if self.end not in tokenizer.stop_ids:
            raise PtwError(
                f"settings: environment: the chat template of tokenizer {tokenizer.name} ends a turn by "
                f"{self._closing!r}, which ends no drawing; give it a `chat_template` that ends turns with a "
                "special token"
            )

    @property
    def end(self) -> int:
        return self._closing_ids[-1]

    def ids(self, message: Message) -> list[int]:
        """PtwError: the template refuses the message, or leaves it out."""
        written = self._tokenizer.template.text([ASKED, SAID, message], prompt=True)
        _, found, after = written.rpartition(f"{SAID['content']}{self._closing}")
        whole, length = self._tokenizer.encode(self._closing + after), len(self._closing_ids)
        if not found or whole[:length] != self._closing_ids:
            raise PtwError(
                f"the chat template of tokenizer {self._tokenizer.name} doesn't go on from an answer; give "
                "it a `chat_template` that writes turns one after the other"
            )
        require_all([message], None, after)
        return whole[length:]
