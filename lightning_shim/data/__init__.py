"""Loaders: the next batch, here and after a pause."""
