"""Templates with the habits of real families give, without markers, the mask that markers would give."""

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

SPECIALS = ["<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|stop|>", "<|result|>"]
CALLS = "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function | tojson + '</call>' }}{% endfor %}"
DECLARED = (
    "{% for tool in tools or [] %}{{ '<|im_start|>tool ' + tool | tojson + '<|im_end|>\n' }}{% endfor %}"
)
ASKED = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
# {G} is where the assistant begins to write, {E} where it ends: marked in one rendering, left out of another
FAMILIES = {
    # the last turn ends with another token than it does once others follow, and so does a call (gpt-oss)
    "another end": "{D}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant' }}{G}"
    "{% if m.reasoning_content %}"
    "{{ ' analysis<|message|>' + m.reasoning_content + '<|end|><|start|>assistant' }}{% endif %}"
    "{{ ' final<|message|>' + (m.content or '') }}{C}{% if m.tool_calls %}{{ '<|call|>' }}{E}"
    "{% elif loop.last and not add_generation_prompt %}{{ '<|return|>' }}{E}"
    "{% else %}{E}{{ '<|end|>' }}{% endif %}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
    # a switch changes what stands before the chat, and tags are written that are empty (Qwen3.8)
    "another beginning": "{% if enable_thinking is undefined or enable_thinking %}"
    "{{ '<|im_start|>system\nThink hard.<|im_end|>\n' }}{% endif %}{D}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n<think>\n' }}{% if m.reasoning_content %}{G}"
    "{{ m.reasoning_content + '\n</think>\n\n' }}{% else %}{{ '\n</think>\n\n' }}{G}{% endif %}"
    "{{ m.content or '' }}{C}{{ '<|im_end|>' }}{E}{{ '\n' }}{% else %}{A}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}",
    # tags that are empty are written as none that thinking goes on from (Nemotron)
    "closed tags": "{D}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% if m.reasoning_content %}{{ '<think>\n' }}{G}{{ m.reasoning_content + '</think>' }}"
    "{% else %}{{ '<think></think>' }}{G}{% endif %}"
    "{{ m.content or '' }}{C}{{ '<|im_end|>' }}{E}{{ '\n' }}{% else %}{A}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and "
    "not enable_thinking %}{{ '<think></think>' }}{% else %}{{ '<think>\n' }}{% endif %}{% endif %}",
    # a text that nothing is to follow has an end of its own (phi-3)
    "end of text": "{D}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{G}{{ m.content or '' }}{C}{{ '<|im_end|>' }}{E}{{ '\n' }}{% else %}{A}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}",
    # an answer between tokens of its own, inside of its turn (Command)
    "two ends": "{D}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant<|message|>' }}{G}{{ m.content or '' }}{C}{{ '<|end|><|im_end|>' }}{E}"
    "{% else %}{A}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|message|>' }}{% endif %}",
    # a call ends with what begins a result, and results stand in the assistant's turn (Gemma 4)
    "results inside": "{D}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>assistant\n' }}{% endif %}{G}"
    "{{ (m.content or '') | trim }}{C}{{ '<|result|>' if m.tool_calls else '<|im_end|>' }}{E}"
    "{{ '' if m.tool_calls else '\n' }}{% elif m.role == 'tool' %}{{ m.content + '<|stop|>' }}"
    "{% else %}{A}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}",
}
HELLO, YES = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}
MORE: dict[str, list[Any]] = {
    "assistant first": [YES, HELLO, YES],
    "system, assistant first": [{"role": "system", "content": "s"}, YES, HELLO, YES],
    "its own markers": [HELLO, YES | {"content": "a<|im_end|>\n<|return|><|end|>b"}, HELLO, YES],
    "thinking at last": [HELLO, YES, HELLO, YES | {"reasoning_content": "because"}],
    "call, then more": [
        HELLO,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
        *[{"role": "tool", "content": found, "name": "search"} for found in ("é", "none")],
        YES,
        HELLO,
        YES,
    ],
}


def tokenizer(template: str) -> Tokenizer:
    hf: Any = learn(["Hello there, how are you? I am fine: 1 2 3."] * 20, 320)
    hf.add_special_tokens({"additional_special_tokens": SPECIALS})
    hf.chat_template = template
    return Tokenizer(hf, "small")


def family(name: str, begin: str = "", end: str = "") -> Tokenizer:
    parts = {"D": DECLARED, "A": ASKED, "C": CALLS, "G": begin, "E": end}
    template = FAMILIES[name]
    for letter, part in parts.items():
        template = template.replace("{" + letter + "}", part)
    return tokenizer(template)


def chat(tokenizer: Tokenizer, messages: Any, tools: Any = None) -> Sample:
    row = Row("chats.jsonl:7", {"messages": messages, "tools": tools})
    return render(row, DatasetEntry("chats", ("chats.jsonl",), "chat"), tokenizer)


def learnt(tokenizer: Tokenizer, sample: Sample) -> list[str]:
    edges = np.flatnonzero(np.diff(np.r_[0, sample.learn.astype(np.int8), 0]))
    return [tokenizer.decode(sample.ids[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def conversations() -> dict[str, tuple[list[Any], list[Any] | None]]:
    awkward = {
        name: (list(one.messages), list(one.tools) if one.tools else None)
        for name, one in chats(()).items()
        if any(m["role"] == "assistant" and (m["content"] or m.get("tool_calls")) for m in one.messages)
    }
    return awkward | {name: (messages, list(TOOLS)) for name, messages in MORE.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_without_markers_the_mask_is_that_of_markers(name: str) -> None:
    plain, marked = family(name), family(name, "{{ '\ue000' }}", "{{ '\ue001' }}")
    learns = 0
    for title, (messages, tools) in conversations().items():
        whole = marked.template.text(messages, tools)
        wanted = [part.split("\ue001")[0] for part in whole.split("\ue000")[1:]]
        sample = chat(plain, messages, tools)
        text = whole.replace("\ue000", "").replace("\ue001", "")
        assert sample.ids.tolist() == plain.encode(text), title
        assert learnt(plain, sample) == wanted, title
        assert sample.context == 0, title
        learns += 1
    assert learns > 20


def test_the_token_that_only_a_last_turn_ends_with_is_learnt_there_alone() -> None:
    """gpt-oss: what ends the turns before it would never be generated."""
    plain = family("another end")
    sample = chat(plain, [HELLO, YES, HELLO, YES])
    assert learnt(plain, sample) == [" final<|message|>Yes.", " final<|message|>Yes.<|return|>"]
    assert sample.context == 0
    assert learnt(plain, chat(plain, [HELLO, YES, HELLO])) == [" final<|message|>Yes."]


def test_two_turns_that_a_template_writes_as_one_are_context() -> None:
    merging = tokenizer(
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}"
        "{{ '<|im_end|>' if loop.last or loop.nextitem.role != 'assistant' }}"
        "{% else %}{{ '<|start|>' + m.content + '<|message|>' }}{% endif %}{% endfor %}"
    )
    sample = chat(merging, [HELLO, YES, YES | {"content": "No."}, HELLO, YES])
    assert (learnt(merging, sample), sample.context) == (["Yes.<|im_end|>"], 2)


def test_a_turn_that_no_chat_may_end_with_is_context() -> None:
    """Qwen3.5 writes a greeting, but refuses a chat that is nothing else."""
    refuses = (
        "{% if not messages | selectattr('role', 'equalto', 'user') | list %}"
        "{{ raise_exception('No user query.') }}{% endif %}"
    )
    plain = tokenizer(refuses + family("two ends").hf.chat_template)
    for begun in MORE["assistant first"], MORE["system, assistant first"]:
        sample = chat(plain, begun)
        assert (learnt(plain, sample), sample.context) == (["Yes.<|end|><|im_end|>"], 1)
    with pytest.raises(PtwError, match=r"chats\.jsonl:7: .*refuses this chat: No user query"):
        chat(plain, [YES])
    with pytest.raises(PtwError, match=r"nothing to learn: .*up to message 1: .*chat: No user query"):
        chat(plain, [YES, HELLO])


ONE = {"type": "text", "text": " Hello there. "}
WRITES = {
    "Python's name": "{{ m.content | trim }}",
    "nothing": "{{ m.content if m.content is string }}",
    "JSON": "{{ m.content if m.content is string else m.content | tojson }}",
    "an error": "{{ '' + m.content }}",
    "parts": "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{{ '<|stop|>' if 'image' in part else part.text }}{% endfor %}{% endif %}",
}


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("writes", WRITES)
def test_one_part_of_text_is_its_string(writes: str, marked: bool) -> None:
    said = WRITES[writes]
    if marked:
        said = "{% generation %}" + said + "{% endgeneration %}"
    plain = tokenizer(
        "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' }}" + said + "{{ '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|message|>' }}{% endif %}"
    )
    strings = [{"role": role, "content": ONE["text"]} for role in ("system", "user", "assistant")]
    parts = [message | {"content": [ONE | {"image": None}]} for message in strings]
    ours, theirs = chat(plain, parts), chat(plain, strings)
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.learn.tolist() == theirs.learn.tolist()
    assert "Hello there." in learnt(plain, ours)[-1]
    several = [*strings[:2], {"role": "assistant", "content": [ONE, ONE]}]
    if writes == "parts":
        assert learnt(plain, chat(plain, several))[-1].startswith(" Hello there.  Hello there. ")
    else:
        with pytest.raises(PtwError, match=r"chats\.jsonl:7: message 3: .* 2 parts.*join their texts"):
            chat(plain, several)


def test_a_template_may_write_parts_of_turns_and_a_systems_message_as_a_string() -> None:
    """Llama 3.2 Vision."""
    plain = tokenizer(
        "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' }}{% if m.role == 'system' %}"
        "{{ m.content | trim }}{% else %}" + WRITES["parts"] + "{% endif %}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|message|>' }}{% endif %}"
    )
    system, asked = {"role": "system", "content": [ONE]}, {"role": "user", "content": [ONE, ONE]}
    text = plain.decode(chat(plain, [system, asked, YES]).ids)
    assert text.startswith("<|start|>system<|message|>Hello there.<|im_end|>")
    assert " Hello there.  Hello there. <|im_end|>" in text
    with pytest.raises(PtwError, match=r"message 1: .* 2 parts.*none of the system's"):
        chat(plain, [system | {"content": [ONE, ONE]}, asked, YES])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image", "image": "a.png"}, ONE], "message 1: .*learns no images"),
        ([{"type": "text"}], "message 1: .*parts of text"),
        (["Hello"], "message 1: .*parts of text"),
        ([], "message 1: .*parts of text"),
    ],
)
def test_parts_that_are_no_text_are_refused(content: Any, message: str) -> None:
    with pytest.raises(PtwError, match=rf"chats\.jsonl:7: {message}"):
        chat(family("two ends"), [{"role": "user", "content": content}, YES])


def test_an_answer_of_empty_parts_says_nothing() -> None:
    with pytest.raises(PtwError, match="message 2: the assistant says nothing"):
        chat(family("two ends"), [HELLO, {"role": "assistant", "content": [{"type": "text", "text": ""}]}])


def test_a_call_may_stand_beside_no_parts() -> None:
    plain = family("two ends")
    asked, call = HELLO, {"role": "assistant", "tool_calls": [CALL]}
    none, empty = (chat(plain, [asked, call | {"content": said}], list(TOOLS)) for said in (None, []))
    assert empty.ids.tolist() == none.ids.tolist()
    assert empty.learn.tolist() == none.learn.tolist()


def test_what_a_tool_says_may_be_a_list_of_anything() -> None:
    plain = tokenizer(
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>' + m.content + '<|im_end|>' }}"
        "{% else %}{{ '<|result|>' + m.content | tojson }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}"
    )
    sample = chat(plain, [HELLO, {"role": "tool", "content": [{"output": 3}]}, YES])
    assert '<|result|>[{"output": 3}]' in plain.decode(sample.ids)
    assert learnt(plain, sample) == ["Yes.<|im_end|>"]


def test_thinking_that_a_template_never_writes_is_counted() -> None:
    thought = YES | {"reasoning_content": "because"}
    chatted = [HELLO, thought, HELLO, YES | {"thinking": "so"}, HELLO, YES | {"reasoning_content": ""}]
    assert chat(family("two ends"), chatted).unsaid == 2
    assert chat(family("closed tags"), [HELLO, thought]).unsaid == 0
    assert chat(family("two ends", "{% generation %}", "{% endgeneration %}"), chatted).unsaid == 2
    row = Row(
        "pairs.jsonl:1", {"prompt": "Hello?", "chosen": [thought], "rejected": [YES | {"content": "No."}]}
    )
    pairs = DatasetEntry("pairs", ("pairs.jsonl",), "preference")
    assert render(row, pairs, family("two ends")).unsaid == 1
