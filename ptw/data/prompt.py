"""What is asked in a row of prompts?"""

from typing import Any

import numpy as np

from ptw.data.messages import messages_of, require_all, short, tools_of
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.chat import Message
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry


def prompt_of(values: dict[str, Any]) -> tuple[list[Message], list[Any] | None]:
    """The messages that an answer is wanted to, and the tools. PtwError: nothing is asked."""
    prompt = values.get("prompt")
    if not prompt or not isinstance(prompt, str | list):
        raise PtwError(f"a prompt row needs `prompt`, a string or messages; this row has {short(prompt)}")
    messages = messages_of([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    if messages[-1]["role"] == "assistant":
        raise PtwError("`prompt` ends with the assistant's turn, so that nothing is asked; drop the answer")
    return messages, tools_of(values.get("tools"))


def render_prompt(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """Up to where the answer begins; what it teaches is what comes after the last id."""
    messages, tools = prompt_of(row.value)
    ids = np.array(tokenizer.chat(messages, tools, prompt=True), dtype=np.int32)
    require_all(messages, tools, tokenizer.template.text(messages, tools, prompt=True))
    return Sample(row.place, ids, np.arange(len(ids)) == len(ids) - 1)
