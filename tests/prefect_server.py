"""Questions to the API of a Prefect server."""

from __future__ import annotations

import json
import time
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError

BUSY = 30  # seconds in which a server whose database is in use is asked again


def ask(server: dict[str, str], path: str, body: dict | None = None) -> Any:
    """Return a server's answer; like Prefect's own client this waits while the server is busy.

    server: the environment in which the server can be reached.
    body: what is sent; None to read only.
    """
    request = urllib.request.Request(
        f"{server['PREFECT_API_URL']}/{path}",
        json.dumps(body).encode() if body is not None else None,
        {"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + BUSY
    while True:
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(1)
