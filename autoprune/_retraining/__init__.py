"""A selected model trained with its whole schedule: over several seeds, and into a run's folder."""
