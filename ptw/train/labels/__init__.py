"""Labelling: what a teacher says of each row of a dataset, once."""
