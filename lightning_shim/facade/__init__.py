"""``self.trainer`` and ``self.logger`` of an attached module."""
