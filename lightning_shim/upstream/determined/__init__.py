"""Determined's private names."""
