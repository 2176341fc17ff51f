"""What the read side knows without a database: documents folded from events, words, queries, errors."""
