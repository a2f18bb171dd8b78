"""What does a port say? In its own process, where the reference is not."""
