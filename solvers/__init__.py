"""The optimisation engine: plain arrays in, plain results out; knows nothing of language models."""
