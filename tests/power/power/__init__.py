"""Lost power: Postgres on a file system that drops what was not synced, cut off at random moments."""
