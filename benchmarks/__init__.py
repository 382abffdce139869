"""Benchmarks: one file a question; each prints a table and writes JSON."""
