"""TRL's side of benchmarks.trl_sft, in an environment that has TRL: one SFTTrainer on token ids and labels.

`python trl_trainer.py WISH.json`: prints what it measured as one line of JSON, and saves the model.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(wish: dict[str, Any]) -> dict[str, float]:
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(wish["threads"])
    torch.set_flush_denormal(wish["tiny_as_zero"])
    torch.manual_seed(0)
    rows = [json.loads(line) for line in Path(wish["rows"]).read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(
        wish["model"], dtype=torch.float32, attn_implementation=wish["attention"]
    )
    settings = trl.SFTConfig(
        output_dir=wish["folder"],
        packing=True,
        packing_strategy="bfd",
        max_length=wish["window"],
        per_device_train_batch_size=wish["rows_at_once"],
        gradient_accumulation_steps=wish["rows_of_a_step"] // wish["rows_at_once"],
        num_train_epochs=wish["epochs"],
        learning_rate=wish["learning_rate"],
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(wish["model"]),
    )
    done = trainer.train()
    trainer.save_model(wish["folder"])
    return {"seconds": done.metrics["train_runtime"], "steps": float(done.global_step)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
