"""Loaders: which batch is next, and how to get there after a pause."""
