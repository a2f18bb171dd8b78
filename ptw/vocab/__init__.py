"""How do the items of a catalogue get semantic IDs?"""
