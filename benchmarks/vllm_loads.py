"""Does vLLM load what ptw exports, and give each token the probability that the port gives it?

vLLM may have an environment of its own: PTW_VLLM_PYTHON names its Python, by default this one is tried.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, publish

SIZES = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
PROMPTS = [[7, 300, 12, 999, 45], [1, 2, 3], list(range(100, 160))]
NEW_TOKENS = 24
# runs where vLLM is installed and ptw need not be: token ids in, (ids, log-probabilities) out
CHILD = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts, new_tokens, answers = json.loads(sys.argv[1])
llm = LLM(model=folder, dtype="float32", max_model_len=512, enforce_eager=True, skip_tokenizer_init=True,
          gpu_memory_utilization=0.3)
parameters = SamplingParams(max_tokens=new_tokens, temperature=1.0, seed=1, logprobs=1, detokenize=False,
                            ignore_eos=True)
found = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters)
texts = [one.outputs[0] for one in found]
pairs = [[[t, step[t].logprob] for t, step in zip(text.token_ids, text.logprobs)] for text in texts]
open(answers, "w").write(json.dumps(pairs))
"""


def main() -> None:
    python = os.environ.get("PTW_VLLM_PYTHON") or sys.executable
    if subprocess.run([python, "-c", "import vllm"], capture_output=True).returncode:
        print(f"skipped: {python} has no vLLM: set PTW_VLLM_PYTHON to one that has", file=sys.stderr)
        return
    figures = []
    for model_type in ("llama", "qwen3"):
        with tempfile.TemporaryDirectory() as folder:
            worst = largest_difference(python, model_type, Path(folder))
        name = f"{model_type}: largest difference of a log-probability"
        figures.append(Figure(name, worst, want=1e-4))
    about = f"{NEW_TOKENS} tokens drawn by vLLM after {len(PROMPTS)} prompts, fp32, random weights"
    publish("vllm_loads", about, figures)


def largest_difference(python: str, model_type: str, folder: Path) -> float:
    """Between vLLM's log-probabilities of the tokens that it drew and the port's."""
    import torch

    from ptw.nn.layout import Layout
    from ptw.ports.export import export
    from ptw.ports.load import create

    loaded = create(SIZES | {"model_type": model_type}, None, seed=0)
    export(loaded, folder / "model")
    module: Any = loaded.module
    worst = 0.0
    for prompt, pairs in zip(PROMPTS, drawn(python, folder), strict=True):
        tokens = [token for token, _ in pairs]
        ids = torch.tensor([prompt + tokens])
        with torch.no_grad():
            hidden = module(ids, Layout.of_documents([[ids.shape[1]]]))
            ours = module.head().logits(hidden)[0].log_softmax(-1)
        for place, (token, theirs) in enumerate(pairs, start=len(prompt) - 1):
            worst = max(worst, abs(ours[place, token].item() - theirs))
    return worst


def drawn(python: str, folder: Path) -> list[list[tuple[int, float]]]:
    """vLLM's tokens after each prompt, with their log-probabilities."""
    answers = folder / "answers.json"
    asked = json.dumps([str(folder / "model"), PROMPTS, NEW_TOKENS, str(answers)])
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # from a file: vLLM starts its engine in a process that imports it
    script = folder / "ask_vllm.py"
    body = "\n".join("    " + line for line in CHILD.strip().splitlines())
    script.write_text(f"def main():\n{body}\n\nif __name__ == '__main__':\n    main()\n")
    subprocess.run([python, str(script), asked], check=True, env=environment | settings, stdout=sys.stderr)
    pairs: list[list[tuple[int, float]]] = json.loads(answers.read_text())
    return pairs


if __name__ == "__main__":
    main()
