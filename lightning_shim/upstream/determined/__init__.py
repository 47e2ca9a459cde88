"""Access to Determined beneath its documented interface."""
