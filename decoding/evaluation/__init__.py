"""Comparing verification rules on a real pair: positions, calibration, generation, judgement, report."""
