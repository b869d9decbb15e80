"""Records of what was measured: kept in SQLite, exchanged as Parquet and JSON lines, replayed to searches."""
