"""Data: from pictures where they lie to shards, and from shards to batches of tensors."""
