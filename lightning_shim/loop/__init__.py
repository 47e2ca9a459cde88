"""Batches, epochs and validations, with their hooks."""
