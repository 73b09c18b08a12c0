"""One folder a model, how our own is made, and a page that runs it in a browser."""
