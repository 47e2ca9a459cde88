"""Tools for those who work on this project: they write generated pages and pictures, and are not installed."""
