"""Candidates that no sampler proposes: the first ones and the baselines."""
