"""A run's records as terminal tables and as one self-contained HTML page."""
