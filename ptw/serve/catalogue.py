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
from pathlib import Path
from typing import Any

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
            self._held[name] = Held(self._tokenizer, name)
        return self._held[name].process(given.get(ONLY), given.get(WITHOUT))

    def _end(self, prompt_ids: list[int], output_ids: list[int], logits_V: Tensor) -> Tensor:
        return only_these(logits_V, stops_of(self._tokenizer))


class Held:
    """The trie of one vocabulary, in the ids of the model's tokenizer."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        self._ids = vocabulary_of(tokenizer, name)
        self._trie = trie_of(self._ids)
        self._tokens_LK = torch.tensor(tokenizer.code_ids(name))
        self._code_of = {id_: code for level in self._tokens_LK.tolist() for code, id_ in enumerate(level)}
        self._stops = stops_of(tokenizer)

    def process(self, only: Sequence[str | int] | None, without: Sequence[str | int] | None) -> Process:
        """Of one request."""
        opened = None
        if only is not None or without is not None:
            opened = self._trie.allowing(self._allowed(only, without or ()))

        def hold(prompt_ids: list[int], output_ids: list[int], logits_V: Tensor) -> Tensor:
            known = [*prompt_ids, *output_ids]
            return only_these(logits_V, self._allowed_ids(known, whole=bool(output_ids), opened=opened))

        return hold

    def _allowed(self, only: Sequence[str | int] | None, without: Sequence[str | int]) -> Tensor:
        allowed_1N = torch.full((1, len(self._ids.items)), only is None)
        rows = self._ids.row_of
        for items, allowed in ((only or (), True), (without, False)):
            allowed_1N[0, [rows[str(item)] for item in items if str(item) in rows]] = allowed
        return allowed_1N

    def _allowed_ids(self, known: Sequence[int], whole: bool, opened: tuple[Tensor, ...] | None) -> Tensor:
        """What may follow. `whole`: whether the answer may end after an item.

        A beam that vLLM keeps although it leads to no item can only end, as impossible as it is.
        """
        begun = self._begun(known)
        node = torch.zeros(1, dtype=torch.int64)
        for depth, code in enumerate(begun):
            _, child_C, code_C = self._trie.children(depth, node)
            node = child_C[code_C == code]
            if not len(node):
                return self._stops
        _, child_C, code_C = self._trie.children(len(begun), node)
        if opened is not None:
            code_C = code_C[opened[len(begun) + 1][0, child_C]]
        allowed = self._tokens_LK[len(begun)][code_C]
        if not begun and whole:
            allowed = torch.cat([allowed, self._stops])
        return allowed if len(allowed) else self._stops

    def _begun(self, known: Sequence[int]) -> list[int]:
        """The codes of the item that is begun: those at the end that make up no whole one."""
        run: list[int] = []
        for id_ in reversed(known):
            if id_ not in self._code_of:
                break
            run.append(self._code_of[id_])
        count = len(run) % self._trie.levels
        return run[:count][::-1]


def stops_of(tokenizer: Tokenizer) -> Tensor:
    """PtwError where no id ends an answer."""
    if not tokenizer.stop_ids:
        raise PtwError(f"tokenizer {tokenizer.name}: no token ends an answer, which a held request needs")
    return torch.tensor(sorted(tokenizer.stop_ids))


def only_these(logits_V: Tensor, ids: Tensor) -> Tensor:
    held_V = torch.full_like(logits_V, -torch.inf)
    ids = ids.to(logits_V.device)
    held_V[ids] = logits_V[ids]
    return held_V
