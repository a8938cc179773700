"""Measuring on target devices, and verifying the front."""
