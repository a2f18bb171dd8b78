"""How does vLLM draw answers, in a process that may be another machine's? Imported where it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# read by vLLM when it is imported; on a CPU it would bind its threads to all cores, and take half the memory
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # whoever ends this process has ended the engine
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}


TOKENS_AT_ONCE = 8192  # of prompts


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted: the ids of its prompt, and the seed that it is drawn by."""

    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Drawn:
    """The ids of an answer with its stop token, and log-probabilities of what each of them was drawn from:
    at the temperature, of the tokens that top-k and top-p leave.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]

    @classmethod
    def joined(cls, parts: Sequence[Drawn]) -> Drawn:
        """The answers of a conversation, without what stands between them."""
        ids = tuple(id_ for part in parts for id_ in part.ids)
        return cls(ids, tuple(value for part in parts for value in part.log_probs))


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float
    top_k: int  # 0: all
    max_new_tokens: int
    stop_ids: tuple[int, ...]


class Vllm:
    """vLLM with the weights of a folder. `window`: tokens of a prompt and its answer, at most."""

    def __init__(self, folder: Path, window: int, sampling: Sampling, dtype: str, memory: float) -> None:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        from vllm import LLM

        _reload_whole()
        self._sampling = sampling
        self._llm = LLM(
            model=str(folder),
            dtype=dtype,
            max_model_len=window,
            gpu_memory_utilization=memory,
            enforce_eager=True,
            enable_prefix_caching=False,  # what was computed with other weights must not be found again
            enable_chunked_prefill=False,  # a prompt in parts draws its seed anew, which a CPU's can't
            max_num_batched_tokens=max(window, TOKENS_AT_ONCE),
            skip_tokenizer_init=True,
            logprobs_mode="processed_logprobs",
        )

    def load(self, folder: Path) -> None:
        """Other weights of the same model."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})

    def generate(self, asked: Sequence[Asked]) -> list[Drawn]:
        """An answer to each."""
        from vllm import SamplingParams, TokensPrompt

        sampling = self._sampling
        prompts = [TokensPrompt(prompt_token_ids=list(one.ids)) for one in asked]
        wanted = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=list(sampling.stop_ids),
                seed=one.seed,
                logprobs=0,
                detokenize=False,
            )
            for one in asked
        ]
        return [_drawn(output) for output in self._llm.generate(prompts, wanted, use_tqdm=False)]


def _reload_whole() -> None:
    """On a CPU vLLM packs matrices for its kernels when it first loads them; `reload_weights` leaves those of
    oneDNN as they were, and experts unpacked where packed ones are read. The gap of the next step shows it.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm import _custom_ops
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as experts

    _custom_ops._supports_onednn = False
    method = experts.UnquantizedFusedMoEMethod
    if method._setup_kernel.__module__ != __name__:
        method._setup_kernel = _packing_again(method._setup_kernel)


def _packing_again(set_up: Callable[..., None]) -> Callable[..., None]:
    def set_up_and_pack(self: Any, layer: Any, w13: Any, w2: Any) -> None:
        is_update = self.moe_kernel is not None
        set_up(self, layer, w13, w2)
        if is_update:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    return set_up_and_pack


def _drawn(output: Any) -> Drawn:
    (answer,) = output.outputs
    ids = tuple(answer.token_ids)
    return Drawn(ids, tuple(by_id[id_].logprob for id_, by_id in zip(ids, answer.logprobs, strict=True)))
