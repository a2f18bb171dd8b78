"""Who ports a new family: reading, a warm start, a loop around an LLM, and the gate that ends it."""
