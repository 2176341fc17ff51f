"""HTTP in, a port called, HTTP out: one router per resource, nothing decided."""
