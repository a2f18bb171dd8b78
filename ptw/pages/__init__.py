"""How does what was found become a page that a browser shows, also years later and without a network?"""
