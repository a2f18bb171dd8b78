"""Is a port the same function as its Hugging Face reference?"""
