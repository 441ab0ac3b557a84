"""Heads: the attention mechanism, its files, import of published heads, and export."""
