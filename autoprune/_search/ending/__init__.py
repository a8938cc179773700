"""What is done after the last trial."""
