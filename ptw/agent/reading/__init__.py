"""What does an author of a port read?"""
