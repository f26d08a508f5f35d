"""Sessions on a cluster while its parts are killed, frozen, stopped and cut off, at seeded random moments."""
