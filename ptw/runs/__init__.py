"""What ran, from what, and what became of it?"""
