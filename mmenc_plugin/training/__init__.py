"""Training of encoders on the items."""
