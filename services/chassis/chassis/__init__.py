"""The microservice chassis: identity, policy, server and channel, telemetry, database and health, the same for every service."""
