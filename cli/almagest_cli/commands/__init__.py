"""The commands of `almagest`, one module per topic."""
