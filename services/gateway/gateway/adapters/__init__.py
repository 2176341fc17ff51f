"""One module per thing that the gateway talks to."""
