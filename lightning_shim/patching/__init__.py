"""Replacements in Lightning's and Determined's classes, and their undoing."""
