"""Compiled inner loops of the importance table; see kernels.compiled."""

UNSCORED = -1  # it has no score yet
INELIGIBLE = -2  # it may not be drawn
