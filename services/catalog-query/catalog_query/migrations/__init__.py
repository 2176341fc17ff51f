"""How the tables of the read model came to be what they are."""
