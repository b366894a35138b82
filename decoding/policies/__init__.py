"""Who sets the price and the draft length while texts are written, and the clock they read."""
