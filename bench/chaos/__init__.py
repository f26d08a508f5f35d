"""Sessions on a real cluster while its parts are killed, frozen and cut off, at seeded random moments."""
