"""Looking for texts that should not be there: what a person's erasure is proven by.

Each service searches all that it keeps, whatever its shape: every column of every table that its role can read, every
key of Redis, every byte of its files. It knows no column by name, so that what was added yesterday is searched as well.
It counts, and never tells what it found.
"""
