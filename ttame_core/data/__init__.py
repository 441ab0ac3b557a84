"""Data: pictures and annotations are written into shards, and shards are read in batches."""
