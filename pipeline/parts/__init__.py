"""Parts: the vectors of a unit become one committed Parquet file."""
