"""What is done before the first trial."""
