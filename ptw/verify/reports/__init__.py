"""What did the gate find, and how is it read?"""
