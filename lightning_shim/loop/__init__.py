"""The loops over batches, epochs and validations, with their hooks."""
