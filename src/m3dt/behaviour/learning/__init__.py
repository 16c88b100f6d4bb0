"""Training of behaviour policies in batched simulations; needs the extra `collect`."""
