"""An S3-compatible server on loopback that counts what it is asked and can be made to fail."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

KEY, SECRET = "AKIAOFTHETESTS000000", "a-secret-that-stands-nowhere/0123456789"
BROKEN = (500, b"<Error><Code>InternalError</Code><Message>We failed</Message></Error>")

Ask = tuple[str, str]  # method, path with its query
Fault = Callable[[Ask], tuple[int, bytes] | None]


class _Quiet(MotoRequestHandler):
    def log(self, *_: Any) -> None: ...


class Store:
    """fault: what to answer in place of S3; None lets a request pass."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.asked: list[Ask] = []
        self.fault: Fault | None = None
        self.bucket = ""
        self._start(0)

    def _start(self, port: int) -> None:
        self._server = make_server("127.0.0.1", port, self, True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        query = environ["QUERY_STRING"]
        ask = environ["REQUEST_METHOD"], environ["PATH_INFO"] + (f"?{query}" if query else "")
        self.asked.append(ask)
        if self.fault and (answer := self.fault(ask)):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, body = answer
            body = b"" if ask[0] == "HEAD" else body
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(f"{status} as told", headers)
            return [body]
        return self._app(environ, start_response)

    @property
    def env(self) -> dict[str, str]:
        """What the usual chain of credentials needs."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    def new_bucket(self) -> None:
        self.fault, self.bucket = None, f"tests-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=self.bucket)
        self.asked.clear()

    @property
    def client(self) -> Any:
        env = self.env
        return boto3.client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=env["AWS_DEFAULT_REGION"],
        )

    @property
    def url(self) -> str:
        """A workspace in the bucket."""
        return f"s3://{self.bucket}/lake"

    def content(self) -> dict[str, bytes]:
        """All of the bucket, by key."""
        client, found = self.client, {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", ()):
                body = client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"]
                found[item["Key"]] = body.read()
        return found

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers at its address."""
        port = self._server.port
        self.stop()
        yield
        self._start(port)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def every(count: int, fault: Fault) -> Fault:
    """A fault of one request in so many."""
    asked = iter(range(count, 10**9))
    return lambda ask: fault(ask) if next(asked) % count == 0 else None
