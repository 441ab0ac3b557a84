"""Heads: the attention mechanism, its files, and heads from and to elsewhere."""
