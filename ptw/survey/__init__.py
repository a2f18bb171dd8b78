"""What is a dataset: how long are its samples, what would training learn from it, what would it refuse?"""
