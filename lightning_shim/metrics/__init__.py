"""Values of ``self.log``, and their reduction."""
