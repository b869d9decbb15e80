"""Tensor programs, loop nests, their printer and their reference interpreter; imports nothing of ours."""
