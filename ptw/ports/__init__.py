"""How do Hugging Face checkpoints become ports, and ports checkpoints again?"""
