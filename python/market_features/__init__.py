"""Converts market data to observations: the features, their computation, and the `.obs` file."""
