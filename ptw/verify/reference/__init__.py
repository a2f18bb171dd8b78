"""What does Hugging Face's own class say? In its own process, where no port is."""
