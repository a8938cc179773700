"""What any pruning of a model costs on one device: measured on some, predicted for all."""
