"""Findings about a module before it is trained."""
