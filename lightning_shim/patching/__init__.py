"""Patches of Lightning's and Determined's classes, and how they are undone."""
