"""Latency and memory prediction for one device, fitted to measured prunings."""
