"""Calls between services: the server that trusts nobody, and the channel that outlives its certificates."""

METADATA_BYTES = 64 * 1024
"""The most metadata that either side takes. gRPC's default of 8 KiB is less than a problem with many violations beside
a token.
"""
