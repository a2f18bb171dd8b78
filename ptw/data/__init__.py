"""How do rows of files become packed rows of ids and targets?"""
