"""Model cards: README.md beside a saved model, for people and for the Hub."""
