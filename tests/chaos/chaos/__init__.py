"""The checker: real processes under faults, every operation recorded, the history checked against what is promised."""
