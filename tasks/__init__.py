"""Prefect tasks: one retryable, idempotent unit of the lake each."""
