"""Errors and warnings, and the user's source lines that they point at."""
