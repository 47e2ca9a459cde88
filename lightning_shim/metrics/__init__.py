"""The values of ``self.log`` and their reduction."""
