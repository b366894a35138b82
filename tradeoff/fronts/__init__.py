"""Exact fronts: of a pair of laws or a batch, of several drafts; their points, their figures."""
