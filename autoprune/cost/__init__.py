"""What a model costs: counted, measured, and predicted."""
