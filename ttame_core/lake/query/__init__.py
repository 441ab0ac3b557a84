"""SQL over the lake: its views, the connection to them, and formats of answers."""
