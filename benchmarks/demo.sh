#!/usr/bin/env bash
# From an empty folder to a trained, exported model that answers: the commands that a user would type.
# What it makes stays in ./demo to look at; a demo that lies there from before is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1
began=$SECONDS

show() {
    local word words=()
    for word in "$@"; do
        [[ $word == *[[:space:]]* ]] && words+=("\"$word\"") || words+=("$word")
    done
    printf '\n$ %s\n' "${words[*]}"
    "$@"
}

rm -rf demo && mkdir demo && cd demo

show ptw init catalogue
cd catalogue
show ptw check
# a family that has no port yet: an LLM's replies are recorded, its tool calls and every verdict are live
show ptw add-model writer --hf starcoder2 --replay ../../tests/agent/recordings/starcoder2.jsonl
show git merge --quiet --ff-only ptw/add-writer
show ptw verify recommender assistant writer

show ptw train next-title
show ptw vocab build titles
show ptw train next-codes
show ptw train chat-sft
show ptw runs

show ptw export chat-sft-001 --to exported/chat
show ptw generate chat-sft-001 "What should I watch tonight?" --max-new-tokens 40
# the export needs no ptw: plain transformers loads it, tokenizer included
show python - exported/chat "What should I watch tonight?" <<'PYTHON'
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": sys.argv[2]}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
tokens = model.generate(**prompt, max_new_tokens=40, do_sample=False)
print(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
PYTHON

# what next for a member, without titles for adults; what that took away, and why
show ptw recommend next-codes-001 --member m00007 --without maturity=18+ --why

# recall@10 of the title that each member watched next: both ways, beside item-kNN and popularity
show ptw eval --compare next-title-001 next-codes-001

printf '\nThe demo took %d seconds; its workspace lies in demo/catalogue.\n' $((SECONDS - began))
