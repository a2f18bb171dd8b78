"""Tokenizers small enough to be built for each session."""

from collections.abc import Callable
from typing import Any

import pytest

from ptw.files.read import Row
from ptw.tokens.items import build_items
from ptw.tokens.learn import learn
from ptw.tokens.tokenizer import Tokenizer

# what Qwen3's own template does with thinking and with its switch, without the rest of it
THINKING_TEMPLATE = """
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set thought = message.reasoning_content or '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


@pytest.fixture(scope="session")
def chat_tokenizer() -> Callable[..., Tokenizer]:
    """A small byte-level tokenizer with this chat template (default: the one that learnt tokenizers have)."""

    def build(template: str | None = None) -> Tokenizer:
        hf: Any = learn(["Hello there, how are you? I am fine: 1 2 3."] * 20, 320)
        if template is not None:
            hf.chat_template = template
        return Tokenizer(hf, "small")

    return build


@pytest.fixture(scope="session")
def item_tokenizer() -> Tokenizer:
    return Tokenizer(build_items((Row(f"items:{i}", {"id": f"i{i}"}) for i in range(50)), "items"), "items")


@pytest.fixture(scope="session")
def thinking_template() -> str:
    return THINKING_TEMPLATE
