"""How does vLLM say nothing but items of the catalogue? By a processor of its logits.

`vllm serve MODEL --logits-processors ptw.serve.catalogue:Catalogue`, of a model whose folder has its semantic
IDs. A request is held to them by `extra_args = {"semantic_ids": "titles"}`; beside it `only`, the items that
it may get, or `without`, those that it may not. Requests that say nothing are free, but where the engine is
started with `additional_config = {"semantic_ids": "titles"}`: then all are held, those of vLLM's own beam
search too, whose candidates are items with `logprobs_mode = "processed_logprobs"`. It counts each code's
probability among those that are allowed, other than ptw's own beams: under narrow filters what is left of a
likely code comes too early there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from ptw.errors import PtwError
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer, vocabulary_of
from ptw.tokens.trie import trie_of

KEY, ONLY, WITHOUT = "semantic_ids", "only", "without"
Process = Callable[[list[int], list[int], Tensor], Tensor]


class Catalogue(AdapterLogitsProcessor):
    """Codes that lead to an item, level by level; after a whole item another one, or the end.

    Where nothing may be said (no item is allowed, or there is no such vocabulary) the answer ends, empty.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._device = device
        self._tokenizer = load_tokenizer(Path(vllm_config.model_config.model))
        self._always = (vllm_config.additional_config or {}).get(KEY)
        if self._always is not None:
            vocabulary_of(self._tokenizer, self._always)  # PtwError where it has none of this name
        self._held: dict[str, Held] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """ValueError, which vLLM answers with status 400, where what is given is no name, or no items."""
        given = sampling_params.extra_args or {}
        if not isinstance(given.get(KEY, ""), str):
            raise ValueError(f"extra_args: {KEY} must be the name of a vocabulary, not {given[KEY]!r}")
        for key in (ONLY, WITHOUT):
            items = given.get(key, [])
            if not (isinstance(items, list) and all(type(item) in (str, int) for item in items)):
                raise ValueError(f"extra_args: {key} must be a list of items, not {items!r}")

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Process | None:
        given: Mapping[str, Any] = params.extra_args or {}
        name = given.get(KEY, self._always)
        if name is None:
            return None
        if name not in self._tokenizer.vocabularies:
            return self._end  # an error here would end the engine, for all requests
        if name not in self._held:
            self._held[name] = Held(self._tokenizer, name, self._device)
        return self._held[name].process(given.get(ONLY), given.get(WITHOUT))

    def _end(self, prompt_ids: list[int], output_ids: list[int], logits_V: Tensor) -> Tensor:
        return only_these(logits_V, stops_of(self._tokenizer))


class Held:
    """The trie of one vocabulary, in the ids of the model's tokenizer.

    A step of a request costs what its children cost: no table of the catalogue's size is made or copied.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, device: torch.device | str = "cpu") -> None:
        self._ids = vocabulary_of(tokenizer, name)
        trie, tokens_LK = trie_of(self._ids), torch.tensor(tokenizer.code_ids(name))
        tables = (trie.begins, trie.codes, trie.spans)
        self._begins, self._codes, self._spans = ([table.numpy() for table in one] for one in tables)
        pairs = zip(tokens_LK, trie.codes, strict=True)
        self._tokens = [tokens_K[code_C].to(device) for tokens_K, code_C in pairs]  # of each node of a level
        self._place_of = trie.items_N.argsort().numpy()  # of a row of the vocabulary, among the trie's items
        self._code_of = {
            id_: (level, code) for level, ids in enumerate(tokens_LK.tolist()) for code, id_ in enumerate(ids)
        }
        self._stops = stops_of(tokenizer).to(device)

    def process(self, only: Sequence[str | int] | None, without: Sequence[str | int] | None) -> Process:
        """Of one request."""
        filter_ = None if only is None and without is None else self._filter(only, without or ())
        most = len(self._codes)

        def hold(prompt_ids: list[int], output_ids: list[int], logits_V: Tensor) -> Tensor:
            newest = [*prompt_ids[-most:], *output_ids[-most:]]
            return only_these(logits_V, self._allowed_ids(newest, bool(output_ids), filter_))

        return hold

    def _filter(self, only: Sequence[str | int] | None, without: Sequence[str | int]) -> Filter:
        listed = self._rows(without) if only is None else self._rows(only) - self._rows(without)
        places = np.sort(self._place_of[np.fromiter(listed, np.int64, len(listed))])
        return Filter(places, allows=only is not None)

    def _rows(self, items: Sequence[str | int]) -> set[int]:
        found = map(self._ids.row_of.get, map(str, items))
        return {row for row in found if row is not None}

    def _allowed_ids(self, newest: Sequence[int], whole: bool, filter_: Filter | None) -> Tensor:
        """What may follow. `whole`: whether the answer may end after an item.

        A beam that vLLM keeps although it leads to no item can only end, as impossible as it is.
        """
        node, begun = 0, self._begun(newest)
        for level, id_ in enumerate(begun):
            begin, end = self._begins[level][node : node + 2]
            of_level, code = self._code_of.get(id_, (-1, -1))
            node = begin + np.searchsorted(self._codes[level][begin:end], code)
            if of_level != level or node == end or self._codes[level][node] != code:
                return self._stops
        begin, end = self._begins[len(begun)][node : node + 2]
        allowed = self._tokens[len(begun)][begin:end]
        if filter_ is not None:
            is_open = filter_.opens(self._spans[len(begun) + 1][begin : end + 1])
            allowed = allowed[torch.from_numpy(is_open.nonzero()[0]).to(allowed.device)]
        if not begun and whole:
            allowed = torch.cat([allowed, self._stops])
        return allowed if len(allowed) else self._stops

    def _begun(self, newest: Sequence[int]) -> Sequence[int]:
        """The ids of the item that is begun: as many as the level of the last one says."""
        level, _ = self._code_of.get(newest[-1], (-1, -1)) if newest else (-1, -1)
        return newest[-level - 1 :] if 0 <= level < len(self._codes) - 1 else []


@dataclass(frozen=True)
class Filter:
    """Of one request: the listed items alone, or all but those. places: among the trie's items, ascending."""

    places: np.ndarray
    allows: bool

    def opens(self, spans: np.ndarray) -> np.ndarray:
        """(C,) whether an item that is allowed is below each of C neighbours, whose spans these are."""
        listed_C = np.diff(np.searchsorted(self.places, spans))
        return listed_C > 0 if self.allows else listed_C < np.diff(spans)


def stops_of(tokenizer: Tokenizer) -> Tensor:
    """PtwError where no id ends an answer."""
    if not tokenizer.stop_ids:
        raise PtwError(f"tokenizer {tokenizer.name}: no token ends an answer, which a held request needs")
    return torch.tensor(sorted(tokenizer.stop_ids))


def only_these(logits_V: Tensor, ids: Tensor) -> Tensor:
    """The row itself, so that vLLM copies none."""
    ids = ids.to(logits_V.device)
    kept = logits_V[ids]
    logits_V.fill_(-torch.inf)[ids] = kept
    return logits_V
