"""Which mistakes are made? One file an operator family; each has `edits(source)`."""
