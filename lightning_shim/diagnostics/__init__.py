"""Errors and warnings."""
