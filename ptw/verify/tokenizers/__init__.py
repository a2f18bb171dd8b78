"""Is a tokenizer the same wherever it is used: in training, in what is exported, in what serves it?"""
