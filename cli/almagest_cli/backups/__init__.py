"""Backups of all databases and archives, and how they are restored. docs/adr/0042 says why it is done so."""
