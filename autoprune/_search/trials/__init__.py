"""Trials in Ray Tune: its searcher, scheduler and trainable, and their workers."""
