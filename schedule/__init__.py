"""Sketches of tensor programs, their integer spaces, and the target machine."""
