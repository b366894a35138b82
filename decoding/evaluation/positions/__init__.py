"""Real positions of a pair: collected, kept in a file, and the knobs that are set on them."""
