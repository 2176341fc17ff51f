"""What people, passwords, sessions, tokens and keys are. No clock, no randomness, no I/O."""
