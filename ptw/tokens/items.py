"""Which tokenizer gives every item of a catalogue one id?"""

from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ptw.errors import PtwError
from ptw.files.read import Row

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def build_items(rows: Iterable[Row], name: str) -> Any:
    """A word-level tokenizer over the `id` of every row, in order, behind three special tokens.

    It has no unknown token: an item outside the catalogue is an error, never an id.
    """
    vocabulary = {PAD: 0, BOS: 1, EOS: 2}
    for row in rows:
        item = item_id(row)
        if item in vocabulary:
            what = "a special token" if item in (PAD, BOS, EOS) else "an item twice"
            raise PtwError(
                f"{row.place}: id {item!r} is {what} in tokenizer {name}; give every item an id of its own"
            )
        vocabulary[item] = len(vocabulary)
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def item_id(row: Row) -> str:
    """The row's `id`: a string without spaces, or a number."""
    value = row.value.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PtwError(
            f"{row.place}: an item needs an `id`, a string or a whole number; this row has {value!r}"
        )
    item = str(value)
    if not item or item.split() != [item]:
        raise PtwError(f"{row.place}: id {item!r} is empty or holds spaces; items are told apart by spaces")
    return item
