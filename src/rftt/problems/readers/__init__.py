"""Rows from files: JSON lines, JSON arrays, CSV and Parquet, each plain or gzipped."""
