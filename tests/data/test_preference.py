"""Of a pair both answers are learnt, each after its prompt, and nothing else is; the pair stays together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptw.data.fit import fit
from ptw.data.pack import IGNORED, lay_out
from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import DatasetEntry

Build = Callable[..., Tokenizer]
ASKED = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "How are you?"},
]
GOOD, BAD = {"role": "assistant", "content": "I am fine: 1 2 3."}, {"role": "assistant", "content": "No."}
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def entry(too_long: str = "error") -> DatasetEntry:
    return DatasetEntry("pairs", ("pairs.jsonl",), "preference", too_long=too_long)


def pair(tokenizer: Tokenizer, **values: Any) -> Sample:
    return render(Row("pairs.jsonl:3", values), entry(), tokenizer)


def learnt(tokenizer: Tokenizer, sample: Sample) -> list[str]:
    edges = np.flatnonzero(np.diff(np.r_[0, sample.learn.astype(np.int8), 0]))
    return [tokenizer.decode(sample.ids[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("template", [None, MARKED])
@pytest.mark.parametrize(
    "values",
    [
        {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},  # the prompt is what both begin with
        {"prompt": ASKED, "chosen": GOOD["content"], "rejected": BAD["content"]},
        {"prompt": ASKED, "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},  # as ultrafeedback's rows are
    ],
)
def test_only_the_two_answers_are_learnt(chat_tokenizer: Build, values: Any, template: str | None) -> None:
    tokenizer = chat_tokenizer(template)
    sample = pair(tokenizer, **values)
    assert learnt(tokenizer, sample) == [f"{GOOD['content']}<|im_end|>", f"{BAD['content']}<|im_end|>"]
    chats = [tokenizer.chat([*ASKED, answer]) for answer in (GOOD, BAD)]
    assert sample.ids.tolist() == chats[0] + chats[1]
    assert sample.documents == (len(chats[0]), len(chats[1]))


def test_strings_are_a_user_and_an_assistant(real_data: Path) -> None:
    tokenizer = load_tokenizer(real_data / "tokenizers" / "qwen2.5")
    sample = pair(tokenizer, prompt="Hi", chosen="Yes", rejected="No")
    assert learnt(tokenizer, sample) == ["Yes<|im_end|>", "No<|im_end|>"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"chosen": "a", "rejected": "a", "prompt": "x"}, "are the same"),
        ({"prompt": ASKED, "chosen": [GOOD]}, "`rejected` is None"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "`prompt` is 3"),
        ({"chosen": [*ASKED, GOOD], "rejected": ASKED}, "`rejected` has no assistant turn"),
        ({"prompt": ASKED, "chosen": [{"role": "assistant"}], "rejected": [BAD]}, "says nothing"),
    ],
)
def test_a_row_that_is_no_pair_is_named(chat_tokenizer: Build, values: Any, words: str) -> None:
    with pytest.raises(PtwError, match=rf"pairs\.jsonl:3: .*{words}"):
        pair(chat_tokenizer(), **values)


def test_a_pair_that_is_too_long_is_cut_on_both_sides(chat_tokenizer: Build) -> None:
    long = {"role": "assistant", "content": "I am fine: 1 2 3. " * 20}
    sample = pair(chat_tokenizer(), prompt=ASKED, chosen=[long], rejected=[BAD])
    chosen, rejected = sample.documents
    (cut,), reason = fit(sample, entry("truncate"), rejected + 60)
    assert reason is None
    assert cut.documents == (60, rejected)  # the short answer leaves its room to the long one
    assert cut.ids.tolist() == [*sample.ids[:60], *sample.ids[chosen:]]
    none, reason = fit(sample, entry("truncate"), 40)
    assert not none
    assert reason == f"the first 40 of its {chosen + rejected} ids hold no target"
    with pytest.raises(PtwError, match='too_long = "truncate" or "drop"'):
        fit(sample, entry(), 100)


def test_no_token_is_learnt_across_documents(chat_tokenizer: Build) -> None:
    sample = pair(chat_tokenizer(), prompt=ASKED, chosen=[GOOD], rejected=[BAD])
    row = lay_out([sample, sample], 2 * len(sample.ids) + 3, 0)
    assert row.lengths == sample.documents * 2
    assert row.samples == (sample.id, sample.id)
    ends = np.cumsum(row.lengths) - 1
    assert (row.targets[ends] == IGNORED).all()
    assert (row.targets != IGNORED).sum() == 2 * sample.learn.sum()
