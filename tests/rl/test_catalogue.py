"""vLLM, held to a catalogue: its beams are the likeliest items, and nothing else can be said."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ptw.nn.layout import Layout
from ptw.ports.load import load
from ptw.rl.engine import QUIET
from ptw.runs import record
from ptw.tokens.tokenizer import load_tokenizer, vocabulary_of
from tests.train.conftest import declare, make_workspace, planned, trained, with_codes

pytestmark = [pytest.mark.rl, pytest.mark.filterwarnings("ignore")]  # vLLM's own

CODES = """
[models.wide.config]
model_type = "llama"
hidden_size = 64
intermediate_size = 96
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 128
tie_word_embeddings = true
[semantic_ids.titles]
items = "data/titles.jsonl"
levels = 2
codebook_size = 16
[tokenizers.codes]
semantic_ids = "titles"
[recipes.generate]
recipe = "pretrain"
model = "wide"
tokenizer = "codes"
dataset = "views"
settings = { steps = 20, window = 64, rows = 4, learning_rate = 1e-2 }
"""  # vLLM's attention on a CPU wants heads of 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model over the codes of 30 items: 7 x 5 of 16 x 16 sequences of codes."""
    titles = [{"id": f"item{n}"} for n in range(30)]
    root = declare(make_workspace(tmp_path_factory.mktemp("codes") / "ws"), CODES, titles=titles)
    names, codes = [title["id"] for title in titles], [[n % 7, n // 7] for n in range(30)]
    with_codes(root, "titles", codes, items=names, size=16, file="data/titles.jsonl")
    return trained(planned(root, "generate", eval_every=100)).folder / record.MODEL


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in QUIET.items():
            patch.setenv(key, value)
        from vllm import LLM

        from ptw.serve.catalogue import Catalogue

        yield LLM(
            model=str(folder),
            dtype="float32",
            max_model_len=64,
            enforce_eager=True,
            max_logprobs=64,
            logprobs_mode="processed_logprobs",
            logits_processors=[Catalogue],
            additional_config={"semantic_ids": "titles"},
        )


def test_beams_are_the_likeliest_among_what_is_allowed(llm: Any, folder: Path, repository: Path) -> None:
    from vllm import TokensPrompt
    from vllm.sampling_params import BeamSearchParams

    tokenizer = load_tokenizer(folder)
    model = load(folder, repository).module.eval()
    prompts = [
        [tokenizer.bos_id, *tokenizer.item_ids(items)] for items in (["item3"], ["item0", "item8", "item29"])
    ]
    given = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    found = llm.beam_search(
        given, BeamSearchParams(beam_width=10, max_tokens=2, ignore_eos=True, length_penalty=0.0)
    )
    for number, prompt in enumerate(prompts):
        beams, wanted = found[number].sequences, likeliest(model, tokenizer, prompt, 10)
        texts = [tokenizer.items.named(tokenizer.decode(beam.tokens[len(prompt) :])) for beam in beams]
        assert texts == [f"<|titles:{item}|>" for _, item in wanted]
        for beam, (score, _) in zip(beams, wanted, strict=True):
            assert beam.cum_logprob == pytest.approx(score, abs=1e-4)
            assert math.isfinite(beam.cum_logprob)


@torch.no_grad()
def likeliest(model: Any, tokenizer: Any, prompt: list[int], width: int) -> list[tuple[float, str]]:
    """The best items by beams of two codes, each code's probability among those that lead to an item."""
    ids, tokens_LK = vocabulary_of(tokenizer, "titles"), tokenizer.code_ids("titles")

    def next_codes(begun: tuple[int, ...]) -> list[tuple[float, int]]:
        level = len(begun)
        codes = sorted({int(row[level]) for row in ids.codes_NL if tuple(row[:level]) == begun})
        known = [*prompt, *(tokens_LK[at][code] for at, code in enumerate(begun))]
        hidden = model(torch.tensor([known]), Layout.of_documents([[len(known)]]))
        logits = model.head().logits(hidden[0, -1])[[tokens_LK[level][code] for code in codes]]
        return list(zip(logits.log_softmax(-1).tolist(), codes, strict=True))

    firsts = sorted(next_codes(()), reverse=True)[:width]
    item_of = {tuple(map(int, row)): item for row, item in zip(ids.codes_NL, ids.items, strict=True)}
    whole = [(one + two, item_of[a, b]) for one, a in firsts for two, b in next_codes((a,))]
    return sorted(whole, reverse=True)[:width]


def test_filters_hold(llm: Any, folder: Path) -> None:
    from vllm import SamplingParams, TokensPrompt

    tokenizer = load_tokenizer(folder)
    prompt = TokensPrompt(prompt_token_ids=[tokenizer.bos_id, *tokenizer.item_ids(["item3"])])

    def said(**extra: Any) -> set[str]:
        params = SamplingParams(temperature=2.0, max_tokens=2, n=40, seed=0, extra_args=extra or None)
        (output,) = llm.generate([prompt], [params], use_tqdm=False)
        return {tokenizer.items.named(tokenizer.decode(one.token_ids)) for one in output.outputs}

    everything = {f"<|titles:item{n}|>" for n in range(30)}
    assert said() <= everything
    assert len(said()) > 5
    assert said(only=["item4", "item9"]) == {"<|titles:item4|>", "<|titles:item9|>"}
    assert said(without=[f"item{n}" for n in range(29)]) == {"<|titles:item29|>"}
    assert said(only=["no such item"]) == {tokenizer.hf.eos_token}, "nothing that is allowed is nothing said"
    assert said(semantic_ids="other") == {tokenizer.hf.eos_token}


@pytest.mark.parametrize("given", [{"semantic_ids": ["titles"]}, {"only": "item1"}, {"without": [["item1"]]}])
def test_what_no_request_may_say_is_refused_before_the_engine_hears_it(given: dict[str, Any]) -> None:
    from ptw.serve.catalogue import Catalogue

    with pytest.raises(ValueError, match=f"extra_args: {next(iter(given))} must be"):
        Catalogue.validate_params(SimpleNamespace(extra_args=given))
    Catalogue.validate_params(SimpleNamespace(extra_args={"semantic_ids": "t", "only": ["item1", 17]}))


def test_ids_that_are_numbers_are_items(llm: Any, folder: Path) -> None:
    from ptw.serve.catalogue import Held

    tokenizer = load_tokenizer(folder)
    held = Held(tokenizer, "titles")
    vocabulary = vocabulary_of(tokenizer, "titles")
    held._ids = replace(vocabulary, items=tuple(item.removeprefix("item") for item in vocabulary.items))
    assert held._rows([4, "9", "no such item"]) == {4, 9}


ENDS = ([], [3], [3, 16 + 2], [3, 16 + 2, 6], [9], [16 + 15], [-1, 16 + 1], [4, -1, 2], [2, 3, 4, 16 + 4])


@pytest.mark.parametrize("wishes", [{}, {"only": range(0, 30, 4)}, {"without": range(9)}, {"only": ()}])
def test_what_may_follow_is_what_leads_to_an_item_that_is_allowed(folder: Path, wishes: Any) -> None:
    """After every end of a prompt and of an answer, whole or broken, beside a list of all items."""
    from ptw.serve.catalogue import Held

    tokenizer = load_tokenizer(folder)
    ids, (first_K, second_K) = vocabulary_of(tokenizer, "titles"), tokenizer.code_ids("titles")
    listed = {key: [f"item{n}" for n in numbers] for key, numbers in wishes.items()}
    kept = set(listed.get("only", ids.items)) - set(listed.get("without", ()))
    pairs = [
        (first_K[a], second_K[b])
        for item, (a, b) in zip(ids.items, ids.codes_NL.tolist(), strict=True)
        if item in kept
    ]
    process = Held(tokenizer, "titles").process(listed.get("only"), listed.get("without"))
    id_of = {-1: tokenizer.bos_id, **dict(enumerate([*first_K, *second_K]))}
    for prompt in ENDS:
        for answer in ENDS:
            known = [id_of[code] for code in (*prompt, *answer)]
            begun = known[-1] if known and known[-1] in first_K else None
            follow = {b for a, b in pairs if a == begun} if begun else {a for a, _ in pairs}
            ends = not follow or (answer and not begun)
            logits_V = process(known[: len(prompt)], known[len(prompt) :], torch.zeros(len(tokenizer.hf)))
            wanted = follow | (set(tokenizer.stop_ids) if ends else set())
            assert set(logits_V.isfinite().nonzero()[:, 0].tolist()) == wanted
