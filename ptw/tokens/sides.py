"""Who gives ids for the same text? The trainer, plain transformers, the file alone and vLLM, asked alike."""

import hashlib
import importlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from transformers import AutoTokenizer

from ptw.errors import PtwError
from ptw.tokens.awkward_chats import AwkwardChat
from ptw.tokens.tokenizer import Tokenizer

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")
# where vLLM has had it, the newest first
VLLM_PLACES = (
    ("vllm.tokenizers", "get_tokenizer"),
    ("vllm.transformers_utils.tokenizer", "get_tokenizer"),
)


class Piece(NamedTuple):
    """A token, and from which to which character of the text it stands for."""

    id: int
    token: str
    start: int
    end: int


@dataclass(frozen=True)
class Side:
    """One way from texts to ids. None for an answer: it refuses the text or the chat."""

    name: str
    backend: Any  # the pipeline of `tokenizers` that it runs
    encode_with: Callable[[str, bool], list[int]]
    decode_with: Callable[[list[int]], str]
    chat_with: Callable[[AwkwardChat], str] | None = None  # None: what it is has no templates
    chat_ids_with: Callable[[AwkwardChat], list[int]] | None = None
    hf: Any = None  # of transformers, where it is one
    events: Tokenizer | None = None  # where it knows of events that have fields

    def encode(self, text: str, special: bool = False) -> list[int] | None:
        """`special` adds what stands around a text."""
        return _or_none(lambda: self.encode_with(text, special))

    def decode(self, ids: list[int]) -> str | None:
        return _or_none(lambda: self.decode_with(ids))

    @property
    def has_events(self) -> bool:
        return self.events is not None

    def sequence(self, row: Mapping[str, Any]) -> list[int]:
        """The ids of a row of events, without what begins one."""
        assert self.events is not None
        return [id_ for event in self.events.events(list(map(str, row["items"])), row) for id_ in event.ids]

    def told(self, ids: list[int]) -> list[dict[str, str | None]]:
        """Of each event the labels of its fields."""
        assert self.events is not None
        return self.events.told(ids)

    def fields_of(self, id_: int) -> tuple[str, ...]:
        """The fields that an id tells of; none of an item's."""
        assert self.events is not None
        token = self.events.field_ids.get(id_)
        return () if token is None else tuple(self.events.fields.said[token])

    @property
    def has_templates(self) -> bool:
        """Whether it could have one."""
        return self.chat_with is not None

    def chat(self, chat: AwkwardChat) -> str | None:
        """The text that its template writes."""
        render = self.chat_with
        return None if render is None else _or_none(lambda: render(chat))

    def chat_ids(self, chat: AwkwardChat) -> list[int] | None:
        render = self.chat_ids_with
        return None if render is None else _or_none(lambda: render(chat))

    @property
    def template(self) -> str | None:
        """Its chat template's source; of several the default."""
        found = None if self.hf is None else self.hf.chat_template
        return found.get("default") if isinstance(found, dict) else found

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        return dict(self.backend.get_vocab(with_added_tokens=True))

    @cached_property
    def named(self) -> Mapping[str, str]:
        """bos_token and its like; empty of a file alone, which has no place for them."""
        if self.hf is None:
            return {}
        return {name: token for name, token in self.hf.special_tokens_map.items() if isinstance(token, str)}

    @cached_property
    def added(self) -> Mapping[str, dict[str, Any]]:
        """Each added token, with its id and with what says how it is found in a text."""
        found = self.backend.get_added_tokens_decoder()
        return {
            token.content: {"id": id_, **{flag: bool(getattr(token, flag)) for flag in FLAGS}}
            for id_, token in found.items()
        }

    def part(self, name: str) -> dict[str, Any] | None:
        """A part of the pipeline as tokenizer.json writes it: normalizer, pre_tokenizer, ..."""
        found = getattr(self.backend, name)
        return None if found is None else json.loads(found.__getstate__())

    @cached_property
    def parts(self) -> dict[str, str]:
        """Each part of the pipeline, as JSON; the model by a digest of it, since it may be megabytes."""
        found = {name: json.dumps(self.part(name), ensure_ascii=False) for name in PARTS}
        digest = hashlib.sha256(self.backend.model.__getstate__()).hexdigest()
        return found | {"model": f"{type(self.backend.model).__name__} {digest[:16]}"}

    @cached_property
    def model(self) -> dict[str, Any]:
        """Its settings, vocabulary and merges, as tokenizer.json writes them."""
        values: dict[str, Any] = json.loads(self.backend.to_str())["model"]
        return values

    @cached_property
    def lossless(self) -> bool:
        """Whether every text must come back whole: bytes become tokens, and nothing is changed before."""
        splits = str(self.part("pre_tokenizer"))
        strips = any(token["lstrip"] or token["rstrip"] for token in self.added.values())
        prefixed = "'add_prefix_space': True" in splits
        return "'ByteLevel'" in splits and self.part("normalizer") is None and not prefixed and not strips


def trained(name: str, tokenizer: Tokenizer) -> Side:
    """As `ptw train` has it."""

    def chat(asked: AwkwardChat) -> str:
        tools = list(asked.tools) if asked.tools else None
        return tokenizer.template.text(list(asked.messages), tools, asked.prompt, **asked.options)

    return Side(
        name,
        tokenizer.hf.backend_tokenizer,
        tokenizer.encode,
        tokenizer.decode,
        chat,
        lambda asked: tokenizer.encode(chat(asked)),
        tokenizer.hf,
        tokenizer if tokenizer.fields else None,
    )


def _of_transformers(name: str, hf: Any) -> Side:
    """As any program that is handed a tokenizer of transformers has it."""

    def rendered(asked: AwkwardChat, **how: bool) -> Any:
        tools = list(asked.tools) if asked.tools else None
        return hf.apply_chat_template(
            list(asked.messages), tools=tools, add_generation_prompt=asked.prompt, **how, **asked.options
        )

    return Side(
        name,
        hf.backend_tokenizer,
        lambda text, special: list(hf(text, add_special_tokens=special, verbose=False)["input_ids"]),
        lambda ids: str(hf.decode(ids)),
        lambda asked: str(rendered(asked, tokenize=False)),
        lambda asked: [int(id_) for id_ in rendered(asked, tokenize=True, return_dict=False)],
        hf,
    )


def plain(name: str, folder: Path, opened: Tokenizer | None = None) -> Side:
    """AutoTokenizer's of the folder, as `opened` has it if it is that; PtwError if it can't open it."""
    if opened is not None and opened.is_automatic:
        return _of_transformers(name, opened.hf)
    try:
        return _of_transformers(name, AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
    except Exception as error:  # transformers and tokenizers raise of every kind here
        raise PtwError(f"{folder}: AutoTokenizer can't open it: {_first_line(error)}") from error


def alone(name: str, folder: Path) -> Side:
    """The folder's tokenizer.json as the Rust library, and every program that reads it alone, has it."""
    file = folder / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises plain exceptions
        raise PtwError(f"{file}: can't be read: {_first_line(error)}") from error
    return Side(
        name,
        backend,
        lambda text, special: list(backend.encode(text, add_special_tokens=special).ids),
        lambda ids: str(backend.decode(ids, skip_special_tokens=False)),
    )


def vllm_is_there() -> bool:
    return importlib.util.find_spec("vllm") is not None


def vllm(name: str, folder: Path) -> Side:
    """The tokenizer that vLLM serves the folder with; PtwError if vLLM can't open it."""
    # a tokenizer that is saved alone has no config.json, which is no error here
    logging.getLogger("vllm.transformers_utils.repo_utils").setLevel(logging.CRITICAL)
    for module, function in VLLM_PLACES:
        try:
            get = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError):
            continue
        try:
            return _of_transformers(name, get(str(folder)))
        except Exception as error:
            raise PtwError(f"{folder}: vLLM can't open its tokenizer: {_first_line(error)}") from error
    places = ", ".join(f"{module}.{function}" for module, function in VLLM_PLACES)
    raise PtwError(f"vLLM is installed and has none of {places}; take a version that has")


def pieces(side: Side, text: str, special: bool = False) -> list[Piece]:
    """What the side's pipeline makes of a text, with places in characters; nothing if it refuses it."""
    try:
        found = side.backend.encode(text, add_special_tokens=special)
    except Exception:  # the Rust side raises plain exceptions
        return []
    return [
        Piece(id_, token, *span)
        for id_, token, span in zip(found.ids, found.tokens, found.offsets, strict=True)
    ]


def _or_none(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except Exception:  # of the Rust side, and of templates, which are foreign code
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
