"""`tradeoff compare`: rules at equal rejection, each charged the exact divergence of its own text."""
