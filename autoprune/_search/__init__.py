"""The search: candidates from Optuna, driven by Ray Tune, within a budget."""
