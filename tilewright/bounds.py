"""The most that may be asked of a run, on the command line and in Python."""

MAX_SEED = 2**32 - 1  # what NumPy, scikit-learn and XGBoost all take
MAX_BATCH = 100_000  # candidates that are drawn at once
MAX_THREADS = 2**31 - 1  # what C and SQLite take
MAX_SECONDS = 1e7  # four months; sockets and clocks take it
