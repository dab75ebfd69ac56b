"""Compiled inner loops of the importance table; see kernels.compiled."""
