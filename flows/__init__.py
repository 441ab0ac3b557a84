"""Prefect flows: what runs after what, and the command line."""

import os
import sys

# These are set before Prefect is imported. No usage data leaves this machine unless the user
# turns that on.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A file in the working folder is no module of the processes that are started, such as the server.
os.environ.setdefault("PYTHONSAFEPATH", "1")
# Nor does a file there say where the settings of logging are, which can name any function.
os.environ.setdefault(
    "PREFECT_LOGGING_CONFIG_PATH",
    os.environ.get("PREFECT_LOGGING_SETTINGS_PATH")
    or os.path.expanduser(os.environ.get("PREFECT_HOME", "~/.prefect") + "/logging.yml"),
)
# How long a command waits for the temporary server it starts: a busy machine needs more than 20 s.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# A request to a server that does not answer is repeated 8 times, each after twice the pause of the
# one before: for 8 minutes in all.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
if sys.stderr.isatty():  # bars show the progress there; the Prefect page keeps every line
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
