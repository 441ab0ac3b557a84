"""Training of heads and classifiers: losses, the loop that both share, sweeps."""
