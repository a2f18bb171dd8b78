"""How do text and items become ids? Hugging Face's tokenizer is the one truth."""
