"""What does every port need once? Packed attention, RoPE, norms, the KV cache, the head and its loss."""
