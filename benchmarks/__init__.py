"""Speed and memory, as ratios within one run: `make bench`."""

import os

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")  # before Prefect is imported
