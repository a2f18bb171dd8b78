"""How are rows read from files, local or remote, in bounded memory?"""
