"""The use cases of the read side, over ports."""
