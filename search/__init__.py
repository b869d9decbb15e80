"""Search: which candidates to measure next, for which task; and the tuning loop that ties everything together."""
