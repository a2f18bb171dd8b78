"""Who gates the gate? Ports with one mistake each."""
