"""Training: losses, the loop that heads and classifiers share, sweeps."""
