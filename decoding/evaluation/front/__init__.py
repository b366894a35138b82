"""`tradeoff front`: fronts of laws in a file."""
