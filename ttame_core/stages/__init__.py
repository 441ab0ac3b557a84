"""A shard's work without Prefect: explain it, evaluate it, and what makes each file."""
