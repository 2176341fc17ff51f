"""What clients send: bodies, strictly typed, nothing unknown in them; and the query parameters of operations."""
