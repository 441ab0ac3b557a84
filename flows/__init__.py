"""Prefect flows: what runs after what, and the command line."""

import os
import sys

# Before Prefect is imported. Nothing is sent home unless the user says so.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Of the temporary server, where there is no other: a busy machine takes longer than 20 s.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# A server that is away while a flow runs is waited for: 8 times, twice as long each, 8 minutes.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
if sys.stderr.isatty():  # bars show the progress there; the Prefect page keeps every line
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
