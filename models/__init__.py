"""One folder a model, and how our own is made."""
