"""The small model that runs ahead."""
