"""How good is a model on what it was not trained on?"""
