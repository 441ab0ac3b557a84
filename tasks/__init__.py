"""Prefect tasks, each of which makes one unit of the lake and may be tried again."""
