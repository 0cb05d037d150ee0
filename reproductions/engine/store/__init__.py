"""What was measured: one JSON and one Parquet per arm, append-only; and the cache of this machine's own runs."""
