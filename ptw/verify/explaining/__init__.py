"""Why does a port fail, in words, and where?"""
