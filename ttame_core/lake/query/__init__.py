"""SQL over the lake: views of its files, connections to them, and formats of answers."""
