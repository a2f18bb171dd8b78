"""ptw: the declarative workspace tool for LLM post-training."""

__version__ = "0.1.0"
