"""Runs every benchmark, the quick ones first, each in a process of its own."""

import subprocess
import sys

NAMES = (
    "help_and_check",
    "corrupted",
    "parity",
    "packed_vs_padded",
    "step_vs_hf",
    "stories_sft",
    "lora_sft",
    "preferences",
    "distill",
    "embed",
    "label",
    "rank_grpo",
    "classify",
    "head_loss",
    "sampled_softmax",
    "mix",
    "streaming",
    "renderers",
    "checkpoints",
    "kill_resume",
    "parallel",
    "memory",
    "compiled",
    "vllm_loads",
    "event_fields",
    "moe_step_vs_hf",
    "vocabulary",
    "trie_beams",
    "filtered_beams",
    "new_rows",
    "codes",
    "beauty",
    "mutants",
    "refusals",
)


def main() -> None:
    failed = [name for name in NAMES if subprocess.call([sys.executable, "-m", f"benchmarks.{name}"])]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
