"""How does a recipe become a trained model: planned, launched, stepped, checkpointed, resumed?"""
