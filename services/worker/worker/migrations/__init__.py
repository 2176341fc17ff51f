"""The jobs database. `python -m worker migrate` runs these as its owner."""
