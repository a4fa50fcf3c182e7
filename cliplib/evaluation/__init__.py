"""How good is it: metrics with intervals, comparisons, calibration."""
