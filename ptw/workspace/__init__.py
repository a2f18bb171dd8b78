"""What does a workspace declare, and is it right? Nothing here imports torch or transformers."""
