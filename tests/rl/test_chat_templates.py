"""On the chat templates that TRL ships, with and without markers, the loss falls where TRL's markers say."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.awkward_chats import CALL, TOOLS, chats
from ptw.tokens.learn import learn
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

MARKED = "_training.jinja"
TRL = find_spec("trl")
FOLDER = Path(TRL.origin).parent / "chat_templates" if TRL and TRL.origin else None
FAMILIES = sorted(path.name.removesuffix(MARKED) for path in FOLDER.glob(f"*{MARKED}")) if FOLDER else []
pytestmark = [
    pytest.mark.rl,
    pytest.mark.skipif(not FAMILIES, reason="TRL and its templates aren't installed"),
]

SPECIAL = re.compile(
    r"<[|｜][^|｜<>' ]+[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|</?think>|\[gMASK\]|<sop>"
)
# what the plain template writes has no mask that is sure, and the message says why
REFUSED = {
    "deepseek_r1_distill": "generation prompt",  # it begins with thinking, which the template strips
    "deepseekv3": "generation prompt",
    "glm4moe": "never learn to stop",  # nothing ends a turn but the next one
    "idefics3": "two questions",  # writes parts alone
    "smolvlm": "two questions",
    "llava_next": "refuses",
}
# TRL's markers take in the header, empty tags, and what follows the end of a turn
THEIRS_ALONE = re.compile(
    r"(\n|<\|endoftext\|>|<\|start\|>assistant|<think>\n(\n</think>\n\n)?|<think></think>)+"
)
# and the end that gpt-oss gives turns that others follow, at which no generation stops
ENDS = {"gptoss": re.compile(r"<\|end\|>(<\|start\|>assistant)?")}
NEVER = re.compile("(?!)")
# a call ends with what generation stops at; after a result the template asks for an answer without its header
OURS_ALONE = {"diffusion_gemma": re.compile(r"<\|tool_response>|<\|turn>model\n")}
LETTER = "\ufffd"  # transformers' mask leaves out the last bytes of a letter of several tokens
HELLO, YES = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}
MORE: dict[str, tuple[list[Any], list[Any] | None]] = {
    "assistant first": ([YES, HELLO, YES], None),
    "markers": ([HELLO, YES | {"content": "a<|im_end|>b<|return|>c"}, HELLO, YES], None),
    "thinking at last": ([HELLO, YES, HELLO, YES | {"reasoning_content": "because"}], None),
    "calls in a row": (
        [
            HELLO,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "é", "name": "search", "tool_call_id": "call_01"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "none", "name": "search", "tool_call_id": "call_01"},
            YES,
            HELLO,
            YES,
        ],
        list(TOOLS),
    ),
}


def tokenizer(family: str, file: str) -> Tokenizer:
    assert FOLDER is not None
    plain = (FOLDER / f"{family}.jinja").read_text()
    hf: Any = learn(["Hello there, how are you? I am fine: 1 2 3."] * 20, 320)
    hf.add_special_tokens({"additional_special_tokens": sorted(set(SPECIAL.findall(plain)))})
    hf.chat_template = (FOLDER / file).read_text()
    return Tokenizer(hf, family)


def conversations() -> dict[str, tuple[list[Any], list[Any] | None]]:
    awkward = {
        name: (list(one.messages), list(one.tools) if one.tools else None)
        for name, one in chats(()).items()
        if any(m["role"] == "assistant" and (m["content"] or m.get("tool_calls")) for m in one.messages)
    }
    return awkward | MORE


def ours(tokenizer: Tokenizer, messages: list[Any], tools: list[Any] | None) -> Sample | str:
    """A sample, or why there is none."""
    row = Row("chats.jsonl:7", {"messages": messages, "tools": tools})
    try:
        return render(row, DatasetEntry("chats", ("chats.jsonl",), "chat"), tokenizer)
    except PtwError as error:
        return str(error)


def theirs(
    tokenizer: Tokenizer, messages: list[Any], tools: list[Any] | None
) -> tuple[list[int], Any] | None:
    try:
        found = tokenizer.hf.apply_chat_template(
            messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception:  # a template is foreign code
        return None
    return found["input_ids"], np.array(found["assistant_masks"], dtype=bool)


def runs(tokenizer: Tokenizer, ids: Any, mask: Any) -> list[str]:
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [tokenizer.decode(ids[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_markers_are_followed_to_the_token(family: str) -> None:
    marked, compared = tokenizer(family, family + MARKED), 0
    for name, (messages, tools) in conversations().items():
        sample, wanted = ours(marked, messages, tools), theirs(marked, messages, tools)
        if isinstance(sample, str):
            assert wanted is None or "leaves out" in sample, (name, sample)
        else:
            assert wanted is not None, name
            assert sample.ids.tolist() == wanted[0], name
            assert not (wanted[1] & ~sample.learn).any(), name
            assert set(runs(marked, sample.ids, sample.learn & ~wanted[1])) <= {LETTER}, name
            compared += 1
    assert compared >= 10 or family in ("idefics3", "smolvlm", "llava_next")  # parts alone


@pytest.mark.parametrize("family", FAMILIES)
def test_without_markers_the_assistant_learns_the_same(family: str) -> None:
    plain, marked = tokenizer(family, f"{family}.jinja"), tokenizer(family, family + MARKED)
    compared = 0
    for name, (messages, tools) in conversations().items():
        sample, wanted = ours(plain, messages, tools), theirs(marked, messages, tools)
        if family in REFUSED:
            assert isinstance(sample, str), name
            assert re.search(f"{REFUSED[family]}|leaves out|refuses", sample), (name, sample)
        elif not isinstance(sample, str) and wanted is not None and sample.ids.tolist() == wanted[0]:
            require_same(family, plain, sample, wanted[1])
            turns = sum(message["role"] == "assistant" for message in messages)
            assert len(runs(plain, sample.ids, sample.learn)) == turns - sample.context, name
            compared += 1
    assert compared >= 10 or family in REFUSED


def require_same(family: str, tokenizer: Tokenizer, sample: Sample, wanted: Any) -> None:
    for run in runs(tokenizer, sample.ids, sample.learn & ~wanted):
        assert run == LETTER or OURS_ALONE.get(family, NEVER).fullmatch(run), run
    if not sample.context:  # of a turn that is context only they learn what the template has left of it
        for run in runs(tokenizer, sample.ids, wanted & ~sample.learn):
            assert THEIRS_ALONE.fullmatch(run) or ENDS.get(family, NEVER).fullmatch(run), run
