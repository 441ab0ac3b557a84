"""Whatever the SQL: nothing is written, and nothing but the workspace is read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from stores import SECRET, Store

from ttame_core.errors import UserError
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.query.connection import run_query
from ttame_core.lake.query.read_only import ReadOnly
from ttame_core.lake.schemas import maps_schema

HIDDEN = "not for everybody"

# {outside}: a folder or bucket beside the workspace, that holds hidden.txt, .csv and .parquet.
# {inside}: the workspace itself. {web}: a web server.
READING = [
    "FROM read_text('{outside}/hidden.txt')",
    "FROM read_text('{inside}/../outside/hidden.txt')",
    "FROM read_text('lake://../outside/hidden.txt')",
    "FROM read_text('lake:///{outside}/hidden.txt')",
    "FROM read_text('file://{outside}/hidden.txt')",
    "FROM read_text('{inside}-beside/hidden.txt')",
    "FROM read_text('lake://link/hidden.txt')",
    "FROM read_text('lake://hidden-link.txt')",
    "FROM '{outside}/hidden.csv'",
    "FROM '{outside}/hidden.parquet'",
    "FROM read_csv('{outside}/hidden.csv')",
    "FROM read_csv(['lake://ours.csv', '{outside}/hidden.csv'])",
    "FROM read_json('{outside}/hidden.txt', format = 'unstructured')",
    "FROM read_blob('{outside}/*')",
    "FROM parquet_kv_metadata('{outside}/hidden.parquet')",
    "FROM sniff_csv('{outside}/hidden.csv')",
    "FROM glob('{outside}/*')",
    "FROM glob('lake://../outside/*')",
    "FROM glob('lake://link/*')",
    "FROM query('FROM read_text(''{outside}/hidden.txt'')')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM ''{outside}/hidden.csv'''))",
    "EXPLAIN ANALYZE FROM read_text('{outside}/hidden.txt')",
    "SUMMARIZE FROM read_text('{outside}/hidden.txt')",
    "WITH x AS MATERIALIZED (FROM read_text('{outside}/hidden.txt')) FROM x",
    "FROM read_text('/proc/self/environ')",
    "FROM read_text('~/.aws/credentials')",
    "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
    "SELECT current_setting('s3_secret_access_key')",
    "FROM duckdb_secrets()",
    "FROM read_text('{web}/hidden.txt')",
    "FROM '{web}/hidden.parquet'",
    "FROM read_text('s3a://bucket/hidden.txt')",
    "FROM read_text('memory://hidden.txt')",
    "FROM sqlite_scan('{outside}/hidden.db', 'hidden')",
    "FROM read_duckdb('{outside}/hidden.db')",
    "FROM postgres_scan('host=127.0.0.1', 'public', 'hidden')",
    "FROM db",  # variables of the program
    "FROM os",
]
WRITING = [
    "COPY (SELECT 1) TO 'lake://evil.csv'",
    "COPY (SELECT 1) TO '{inside}/evil.csv'",
    "WITH x AS (COPY (SELECT 1) TO 'lake://evil.csv') FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{inside}/evil.csv') FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{outside}/evil.csv') FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'lake://evil.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{inside}/evil.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}/evil.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO 'lake://evil' (PARTITION_BY a)",
    "FROM query('WITH x AS (COPY (SELECT 1) TO ''{inside}/evil.csv'') FROM x')",
    "EXPORT DATABASE '{outside}/evil'",
    "ATTACH '{inside}/evil.db'",
    "EXPLAIN ANALYZE ATTACH '{outside}/evil.db'",
    "FROM enable_logging(storage = 'file', storage_config = {{'path': '{outside}/evil.csv'}})",
    "FROM enable_profiling(save_location = '{outside}/evil.json')",
    "EXPLAIN ANALYZE SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "CALL force_checkpoint()",
    "INSTALL httpfs",
    "LOAD httpfs",
    "EXPLAIN ANALYZE LOAD httpfs",
    "CREATE SECRET (TYPE s3)",
    "CREATE TABLE evil AS SELECT 1",
    "EXPLAIN ANALYZE CREATE TABLE evil AS SELECT 1",
    "INSERT INTO metrics SELECT * FROM metrics",
    "WITH x AS (INSERT INTO metrics SELECT * FROM metrics RETURNING *) FROM x",
    "EXPLAIN ANALYZE DROP VIEW leaderboard",
    "PREPARE evil AS SELECT 1",
    "SELECT 1; COPY (SELECT 1) TO 'lake://evil.csv'",
]


class _Web(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module", params=["local", "s3"])
def root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, object_store: Store
) -> Iterator[str]:
    """A folder, or a bucket."""
    object_store.new_bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.env.items():
            patch.setenv(name, value)
        folder = str(tmp_path_factory.mktemp("confined"))
        patch.chdir(folder)
        yield folder if request.param == "local" else f"s3://{object_store.bucket}"


@pytest.fixture(scope="module")
def places(root: str) -> tuple[Lake, str]:
    """A workspace, and a place beside it."""
    lake = Lake(f"{root}/inside")
    lake.write_parquet(maps_file("d", "b", "e", "test-0"), [], maps_schema(1, 1), "x")
    for where in ("outside", "inside-beside"):
        beside = Lake(f"{root}/{where}")
        schema = maps_schema(1, 1).with_metadata({"hidden": HIDDEN})
        beside.write_parquet("hidden.parquet", [], schema, "x", hidden=HIDDEN)
        for name in ("hidden.txt", "hidden.csv"):
            with beside.create(name) as path:
                path.write_text(f"a\n{HIDDEN}\n")
    with lake.create("ours.csv") as path:
        path.write_text("a\nours\n")
    if lake.local:
        os.symlink(f"{root}/outside", f"{root}/inside/link")
        os.symlink(f"{root}/outside/hidden.txt", f"{root}/inside/hidden-link.txt")
    return lake, f"{root}/outside"


def _files(store: Store) -> set[str]:
    return {str(p) for p in Path().rglob("*")} | set(store.content())


@pytest.mark.parametrize("sql", READING)
def test_nothing_else_is_read(places: tuple[Lake, str], web: str, sql: str) -> None:
    lake, outside = places
    try:
        answer = run_query(lake, sql.format(outside=outside, inside=lake, web=web))
    except UserError as refused:
        said = str(refused)
    else:
        assert answer.num_rows == 0  # there is no such file
        said = ""
    for secret in (HIDDEN, SECRET):
        assert secret not in said
    assert _Web.asked == 0


@pytest.mark.parametrize("sql", WRITING)
def test_nothing_is_written(places: tuple[Lake, str], object_store: Store, sql: str) -> None:
    lake, outside = places
    before = _files(object_store)
    with pytest.raises(UserError):
        run_query(lake, sql.format(outside=outside, inside=lake))
    assert _files(object_store) == before


def test_the_workspace_itself_is_read(places: tuple[Lake, str]) -> None:
    lake, _ = places
    assert run_query(lake, "FROM 'lake://ours.csv'").to_pylist() == [{"a": "ours"}]
    assert run_query(lake, "FROM maps").num_rows == 0
    assert run_query(lake, "EXPLAIN ANALYZE FROM maps").num_rows == 1
    assert run_query(lake, "SELECT count(*) AS n FROM metrics").to_pylist()[0]["n"] > 20
    names = run_query(lake, "FROM glob('lake://maps/*/*/*/*')").to_pylist()
    assert names == [{"file": "lake://" + maps_file("d", "b", "e", "test-0")}]


def test_threads_that_share_a_file_read_each_at_its_own_place(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits/file").write_bytes(bytes(range(100)))
    with closing(ReadOnly(lake).open("audits/file")) as stream, ThreadPoolExecutor(1) as other:
        assert stream.seek(10) == 10
        assert other.submit(stream.seek, 50).result() == 50
        assert stream.read(2) == bytes([10, 11])
        assert other.submit(stream.read, 2).result() == bytes([50, 51])
        assert stream.seek(3, 1) == 15
        assert stream.read(1) == bytes([15])
        assert stream.seek(-1, 2) == 99
        assert other.submit(stream.tell).result() == 52
