"""Does half of stories260K learn more from the whole than from the same tokens alone?"""

import json
from pathlib import Path

import torch

from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import ptw, workspace
from ptw.nn.decode import generate
from ptw.ports.load import load
from ptw.tokens.tokenizer import load_tokenizer

STORIES, HELD_OUT, LENGTH, AT_ONCE = 640, 64, 224, 64
TOML = """
[workspace]
name = "distill"

[models.stories]
hf = "stories"

[models.half.config]
model_type = "llama"
hidden_size = 48
intermediate_size = 128
num_hidden_layers = 4
num_attention_heads = 6
num_key_value_heads = 3
max_position_embeddings = 512
tie_word_embeddings = true

[tokenizers.stories]
hf = "stories"

[datasets.told]
source = "data/told.jsonl"
format = "text"
too_long = "truncate"

[datasets.held-out]
source = "data/held-out.jsonl"
format = "text"
too_long = "truncate"
"""
RECIPE = """
[recipes.{name}]
recipe = "{recipe}"
model = "half"
tokenizer = "stories"
dataset = "told"
eval_dataset = "held-out"
{roles}
[recipes.{name}.settings]
epochs = 4
window = 256
rows = 16
rows_at_once = 16
learning_rate = 3e-3
warmup = 20
{more}
"""
RUNS = {
    "alone": ("pretrain", ""),
    "forward": ("distill", ""),
    "top-16": ("distill", "top_k = 16"),
}


def main() -> None:
    stories = real_data("stories260K") / "hf"
    two_threads()
    teacher = 'roles = { teacher = "stories" }'
    recipes = [
        RECIPE.format(name=name, recipe=recipe, roles=teacher if recipe == "distill" else "", more=more)
        for name, (recipe, more) in RUNS.items()
    ]
    with workspace(TOML + "".join(recipes), {"stories": stories}) as root:
        tokens = tell(stories, root / "data")
        for name in RUNS:
            ptw(root, "train", name)
        losses = {name: held_out(root / "runs" / f"{name}-001") for name in RUNS}
    about = (
        f"{STORIES} stories that stories260K tells ({tokens:,} tokens), learnt by a llama of 126k parameters "
        f"in 4 epochs, alone and from the teacher; {HELD_OUT} further stories are held out"
    )
    figures = [Figure(f"{name}: held-out loss", loss) for name, loss in losses.items()]
    figures.append(
        Figure("forward: held-out loss over that of alone", losses["forward"] / losses["alone"], want=0.99)
    )
    publish("distill", about, figures)


def tell(stories: Path, data: Path) -> int:
    """Writes stories that the model draws from its first token on; how many tokens are to learn."""
    model, tokenizer = load(stories, None, dtype=torch.float32).module.eval(), load_tokenizer(stories)
    assert tokenizer.bos_id is not None
    told: list[str] = []
    tokens = 0
    for begin in range(0, STORIES + HELD_OUT, AT_ONCE):
        prompts = [[tokenizer.bos_id]] * AT_ONCE
        drawn = generate(model, prompts, LENGTH, stop_ids=tokenizer.stop_ids, temperature=1.0, seed=begin)
        told += [tokenizer.decode([id_ for id_ in one if id_ not in tokenizer.stop_ids]) for one in drawn]
        tokens += sum(map(len, drawn)) if begin < STORIES else 0
    for name, texts in (("told", told[:STORIES]), ("held-out", told[STORIES:])):
        lines = (json.dumps({"text": text.strip()}) + "\n" for text in texts)
        (data / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tokens


def held_out(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([line["held_out_loss"] for line in lines if "held_out_loss" in line][-1])


if __name__ == "__main__":
    main()
