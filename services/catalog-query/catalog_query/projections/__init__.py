"""Event in, row change out."""
