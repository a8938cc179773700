"""Proposing candidates: samplers of Optuna, moves around the front, screening, projection."""
