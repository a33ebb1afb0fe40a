"""Many recordings as one directory of Parquet files, and questions about all of them at once."""
