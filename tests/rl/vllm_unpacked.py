"""A vLLM worker of verl that keeps plain matrices: packed ones of oneDNN do not follow new weights."""

from typing import Any

import vllm._custom_ops
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class Worker(vLLMColocateWorkerExtension):
    def __new__(cls, **kwargs: Any) -> Any:
        vllm._custom_ops._supports_onednn = False
        return super().__new__(cls, **kwargs)
