"""Market data into observations: what the features are, how they are computed, and the file they are kept in."""
