"""Which tokenizer does a dataset's own text teach?"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ptw.errors import PtwError
from ptw.files.read import Row

END, PAD, TURN, END_TURN = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
CHATML = Path(__file__).parent / "chatml.jinja"


def learn(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE of at most `vocab_size` tokens, the same for the same texts; digits stand alone."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END, PAD, TURN, END_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    learnt = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=END,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
    learnt.chat_template = CHATML.read_text(encoding="utf-8")
    return learnt


def texts_of(rows: Iterable[Row], format: str, name: str) -> Iterator[str]:
    """The text of every row of a dataset of any format but events."""
    for row in rows:
        if format == "text" or (format == "labelled" and "text" in row.value):
            yield _string(row, row.value, "text")
        elif format in ("chat", "rated", "labelled"):
            yield from _contents(row, "messages")
        elif format in ("preference", "prompt"):
            for key in ("prompt", "chosen", "rejected"):
                if isinstance(row.value.get(key), str):
                    yield _string(row, row.value, key)
                elif key in row.value:
                    yield from _contents(row, key)
        elif format == "pair":
            yield from (_string(row, row.value, key) for key in ("query", "positive"))
            yield from (_string(row, {"negatives": text}, "negatives") for text in _negatives(row))
        else:
            raise PtwError(
                f"tokenizer {name}: a dataset of format {format!r} has no text to learn; use `items` instead"
            )


def _negatives(row: Row) -> list[Any]:
    found = row.value.get("negatives") or []
    if not isinstance(found, list):
        raise PtwError(f"{row.place}: `negatives` must be a list of strings, this is {found!r}")
    return found


def _contents(row: Row, key: str) -> Iterator[str]:
    messages = row.value.get(key)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise PtwError(f"{row.place}: a chat needs `{key}`, a list of objects with role and content")
    yield from (_string(row, message, "content") for message in messages if message.get("content"))


def _string(row: Row, holder: dict[str, Any], key: str) -> str:
    text = holder.get(key)
    if isinstance(text, list):  # parts, as of a chat with images
        return "\n".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if not isinstance(text, str):
        raise PtwError(f"{row.place}: `{key}` must be a string, this is {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PtwError(f"{row.place}: `{key}` holds half a surrogate pair; write it as UTF-8") from None
    return text
