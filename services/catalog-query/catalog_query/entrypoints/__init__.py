"""Wire in, use case called, wire out."""
