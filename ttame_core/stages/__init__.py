"""The work on a shard, without Prefect: explaining, evaluating, and the fingerprints of files."""
