"""Who this process is, proven by a certificate that somebody else writes and replaces."""
