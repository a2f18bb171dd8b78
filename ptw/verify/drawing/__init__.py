"""Which cases show a mistake of a port? Drawn on the reference, from its config class alone."""
