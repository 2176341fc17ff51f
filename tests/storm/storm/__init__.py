"""A storm of rotations: leaves of seconds, an authority of half a minute, and no request that fails."""
