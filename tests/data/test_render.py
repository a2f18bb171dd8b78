"""The loss falls on what the assistant wrote, on all of it, and on nothing else."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import DatasetEntry

Build = Callable[..., Tokenizer]
USER, OTHER = {"role": "user", "content": "Hi there"}, {"role": "user", "content": "More?"}
PLAIN = [USER, {"role": "assistant", "content": "Hello 12!"}]
TURNS = [
    {"role": "system", "content": "Be kind."},
    *PLAIN,
    OTHER,
    {"role": "assistant", "content": "No more."},
]
THINKING = [
    USER,
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    OTHER,
    {"role": "assistant", "content": "<think>\nhmm\n</think>\n\nNo."},
]
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "d", "parameters": {"type": "object"}},
}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
TOOLS = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "found"},
    {"role": "assistant", "content": "Done."},
]


def chat(tokenizer: Tokenizer, messages: list[Any], tools: Any = None) -> Sample:
    row = Row("chats.jsonl:7", {"messages": messages, "tools": tools})
    return render(row, DatasetEntry("chats", ("chats.jsonl",), "chat"), tokenizer)


def learnt(tokenizer: Tokenizer, sample: Sample) -> list[str]:
    """The text of each run of targets."""
    edges = np.flatnonzero(np.diff(np.r_[0, sample.learn.astype(np.int8), 0]))
    return [tokenizer.decode(sample.ids[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.fixture(params=["qwen2.5", "phi-3-mini", "minimind", "stories260K"])
def real(request: pytest.FixtureRequest, real_data: Path) -> tuple[Tokenizer, str]:
    """A real tokenizer without generation markers, and what ends its turns."""
    end = {"phi-3-mini": "<|end|>", "stories260K": "</s>"}.get(request.param, "<|im_end|>")
    folder = real_data / (
        "stories260K/hf" if request.param == "stories260K" else f"tokenizers/{request.param}"
    )
    return load_tokenizer(folder), end


@pytest.mark.parametrize("messages", [PLAIN, TURNS, [*TURNS, OTHER], [PLAIN[1], *TURNS[1:]]])
def test_real_templates_teach_every_answer_and_its_end(
    real: tuple[Tokenizer, str], messages: list[Any]
) -> None:
    tokenizer, end = real
    sample = chat(tokenizer, messages)
    answers = [message["content"] + end for message in messages if message["role"] == "assistant"]
    assert learnt(tokenizer, sample) == answers
    assert sample.ids.tolist() == tokenizer.chat(messages)
    assert sample.context == 0


def test_what_is_before_an_answer_is_the_prompt_of_generation(real: tuple[Tokenizer, str]) -> None:
    tokenizer, _ = real
    sample = chat(tokenizer, TURNS)
    begins = np.flatnonzero(np.diff(sample.learn.astype(np.int8)) == 1) + 1
    for begin, messages in zip(begins, (TURNS[:2], TURNS[:4]), strict=True):
        assert sample.ids[:begin].tolist() == tokenizer.chat(messages, prompt=True)


def test_real_templates_with_tools_teach_the_call(real: tuple[Tokenizer, str]) -> None:
    tokenizer, end = real
    if end != "<|im_end|>":
        with pytest.raises(PtwError, match=r"chats\.jsonl:7: .*template"):
            chat(tokenizer, TOOLS, [TOOL])
        return
    call = '<tool_call>\n{"name": "look_up", "arguments": {"a": 1}}\n</tool_call>'
    sample = chat(tokenizer, TOOLS, [TOOL])
    assert learnt(tokenizer, sample) == [call + end, "Done." + end]
    # datasets store tools as a string of JSON as well
    assert chat(tokenizer, TOOLS, '[{"type": "function", "function": {"name": "look_up"}}]').learn.any()


def test_reasoning_and_calls_are_learnt_in_every_turn_of_a_real_template(real_data: Path) -> None:
    tokenizer = load_tokenizer(real_data / "tokenizers" / "minimind")
    thoughts = ["First a.", "Then\n\nb, twice."]
    turns = [
        [{"role": "assistant", "reasoning_content": thought, "tool_calls": [CALL] * calls}, TOOLS[2]]
        for calls, thought in enumerate(thoughts, 1)
    ]
    messages = [USER, *turns[0], *turns[1], TOOLS[3]]
    sample = chat(tokenizer, messages, [TOOL])
    call = '<tool_call>\n{"name": "look_up", "arguments": {"a": 1}}\n</tool_call>'
    assert learnt(tokenizer, sample) == [
        f"{thoughts[0]}\n</think>\n\n{call}<|im_end|>",
        f"{thoughts[1]}\n</think>\n\n{call}\n{call}<|im_end|>",
        "Done.<|im_end|>",  # the empty tags before it are the template's
    ]
    assert sample.context == 0
    assert sample.ids.tolist() == tokenizer.chat(messages, [TOOL])
    begins = np.flatnonzero(np.diff(sample.learn.astype(np.int8)) == 1) + 1
    for begin, at, thinks in zip(begins, (1, 3, 5), (True, True, False), strict=True):
        prompt = tokenizer.template.text(messages[:at], [TOOL], prompt=True, open_thinking=thinks)
        assert sample.ids[:begin].tolist() == tokenizer.encode(prompt)


def test_generation_markers_are_followed_as_transformers_follows_them(chat_tokenizer: Build) -> None:
    tokenizer = chat_tokenizer()
    for messages, tools in ((PLAIN, None), (TURNS, None), (THINKING, None), (TOOLS[:2] + TOOLS[2:], [TOOL])):
        clean = [{key: value for key, value in message.items() if value is not None} for message in messages]
        sample = chat(tokenizer, messages, tools)
        theirs = tokenizer.hf.apply_chat_template(
            PLAIN if messages is PLAIN else clean,
            tools=tools,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        if tools is None:
            assert sample.ids.tolist() == theirs["input_ids"]
            assert sample.learn.astype(int).tolist() == theirs["assistant_masks"]
    assert learnt(tokenizer, chat(tokenizer, TURNS)) == ["Hello 12!<|im_end|>", "No more.<|im_end|>"]


def test_two_threads_do_not_write_into_each_others_masks(chat_tokenizer: Build) -> None:
    """As where the training stream and the held-out one are read at the same time."""
    chats = [PLAIN, TURNS, THINKING]
    tokenizers = [chat_tokenizer() for _ in range(4)]
    alone = [chat(tokenizers[0], messages).learn.tolist() for messages in chats]

    def rendered(at: int) -> list[list[bool]]:
        return [chat(tokenizers[at % 4], messages).learn.tolist() for messages in chats * 25]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(rendered, range(4))) == [alone * 25] * 4
    finally:
        sys.setswitchinterval(before)


def test_a_template_without_markers_gives_the_mask_of_one_with_them(chat_tokenizer: Build) -> None:
    marked = chat_tokenizer()
    template = marked.hf.chat_template
    plain = chat_tokenizer(template.replace("{%- generation %}", "").replace("{%- endgeneration %}", ""))
    assert not plain.template.is_marked(None)
    for messages, tools in ((PLAIN, None), (TURNS, None), (THINKING, None), (TOOLS, [TOOL])):
        ours, theirs = chat(plain, messages, tools), chat(marked, messages, tools)
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.learn.tolist() == theirs.learn.tolist()


def test_thinking_that_a_template_strips_is_context(chat_tokenizer: Build, thinking_template: str) -> None:
    tokenizer = chat_tokenizer(thinking_template)
    sample = chat(tokenizer, THINKING)
    assert learnt(tokenizer, sample) == ["<think>\nhmm\n</think>\n\nNo.<|im_end|>"]
    assert sample.context == 1


def test_empty_think_tags_of_the_template_are_no_target(
    chat_tokenizer: Build, thinking_template: str
) -> None:
    tokenizer = chat_tokenizer(thinking_template)
    sample = chat(tokenizer, TURNS)
    assert "<think>\n\n</think>" in tokenizer.decode(sample.ids)
    assert learnt(tokenizer, sample) == ["Hello 12!<|im_end|>", "No more.<|im_end|>"]
    assert sample.context == 0


def test_a_token_across_the_border_is_an_error(real_data: Path) -> None:
    tokenizer = load_tokenizer(real_data / "tokenizers" / "qwen2.5")
    with pytest.raises(PtwError, match=r"chats\.jsonl:7: message 2: a token crosses the border.*white space"):
        chat(tokenizer, [USER, {"role": "assistant", "content": "\nHello"}])


def test_a_prompt_that_no_answer_goes_on_from_is_an_error(chat_tokenizer: Build) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    with pytest.raises(PtwError, match=r"chats\.jsonl:7: nothing to learn: .*generation prompt"):
        chat(chat_tokenizer(template), PLAIN)


@pytest.mark.parametrize(
    ("messages", "tools", "message"),
    [
        (None, None, "needs `messages`"),
        ([], None, "needs `messages`"),
        (["hi"], None, "message 1 must be an object with a `role`"),
        ([USER], None, "no assistant turn"),
        ([USER, {"role": "assistant", "content": ""}], None, "message 2: the assistant says nothing"),
        ([USER, {"role": "assistant", "content": 3}], None, "message 2: `content` must be a string"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": 1}]}],
            None,
            "message 2: .* needs a `name`",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            None,
            "must be JSON",
        ),
        (PLAIN, "{", "`tools` must be JSON"),
        ([{"role": "user", "content": "\ud800"}, PLAIN[1]], None, "can't encode"),
    ],
)
def test_a_wrong_row_is_named(messages: Any, tools: Any, message: str, chat_tokenizer: Build) -> None:
    with pytest.raises(PtwError, match=rf"chats\.jsonl:7: .*{message}"):
        chat(chat_tokenizer(), messages, tools)


def test_generation_markers_around_nothing_are_an_error(chat_tokenizer: Build) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.reasoning_content }}{% endgeneration %}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    tokenizer = chat_tokenizer(template)
    thinking = [USER, {**PLAIN[1], "reasoning_content": "hm "}]
    assert learnt(tokenizer, chat(tokenizer, thinking)) == ["hm "]
    with pytest.raises(PtwError, match=r"chats\.jsonl:7: nothing to learn: .* blocks wrote nothing"):
        chat(tokenizer, PLAIN)


def test_what_a_template_leaves_out_is_an_error(chat_tokenizer: Build) -> None:
    template = (
        "{% for m in messages if m.role != 'tool' %}{{ m.role + ': ' + m.content + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = chat_tokenizer(template)
    assert learnt(tokenizer, chat(tokenizer, PLAIN)) == ["Hello 12!<|im_end|>"]
    with pytest.raises(PtwError, match="message 2: the chat template leaves out what the tool says"):
        chat(tokenizer, [USER, {"role": "tool", "content": "found"}, PLAIN[1]])
    with pytest.raises(PtwError, match="leaves out tool 'look_up'"):
        chat(tokenizer, PLAIN, [TOOL])


def test_a_template_that_ends_no_turn_is_an_error(chat_tokenizer: Build) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    with pytest.raises(PtwError, match=r"never learn to stop|nothing to learn"):
        chat(chat_tokenizer(template), PLAIN)
    with pytest.raises(PtwError, match="has no chat template"):
        chat(chat_tokenizer(""), PLAIN)


def test_text_is_learnt_between_its_bounds(chat_tokenizer: Build) -> None:
    tokenizer = chat_tokenizer()
    texts = DatasetEntry("texts", ("t.jsonl",), "text")
    sample = render(Row("t.jsonl:1", {"text": "Hello there"}), texts, tokenizer)
    assert sample.ids.tolist() == [tokenizer.bos_id, *tokenizer.encode("Hello there"), tokenizer.eos_id]
    assert sample.learn.tolist() == [False] + [True] * (len(sample.ids) - 1)
    for value in ({}, {"text": 3}, {"text": ""}):
        with pytest.raises(PtwError, match=r"t\.jsonl:1: .*text"):
            render(Row("t.jsonl:1", value), texts, tokenizer)


def test_events_are_one_id_each(item_tokenizer: Tokenizer) -> None:
    events = DatasetEntry("events", ("e.jsonl",), "event", leave_out=1)
    sample = render(Row("e.jsonl:1", {"items": ["i3", "i1", "i9"]}), events, item_tokenizer)
    assert sample.ids.tolist() == [1, 6, 4]
    assert sample.learn.tolist() == [False, True, True]
    for value in (
        {},
        {"items": "i1"},
        {"items": [None, "i1"]},
        {"items": ["</s>", "i1"]},
        {"items": ["x", "i1"]},
    ):
        with pytest.raises(PtwError, match=r"e\.jsonl:1: .*item"):
            render(Row("e.jsonl:1", value), events, item_tokenizer)


def test_short_chats_render_fast(chat_tokenizer: Build, thinking_template: str) -> None:
    tokenizer = chat_tokenizer(thinking_template)
    chat(tokenizer, TURNS)
    begun = time.process_time()
    for _ in range(100):
        chat(tokenizer, TURNS)
    assert time.process_time() - begun < 1
