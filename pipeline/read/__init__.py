"""Read: a unit's slices of Parquet files become texts."""
