"""The state that all parts of one training share, and its options."""
