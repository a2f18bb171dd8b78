"""How does a model learn from what its own answers are worth?"""
