"""A REST catalog as small as the specification lets it be, over a catalog of pyiceberg's own in a folder."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest, Table

Answer = tuple[int, dict[str, Any] | None]
TOKEN = "let me in"
_CODES = {
    CommitFailedException: 409,
    NamespaceAlreadyExistsError: 409,
    NoSuchNamespaceError: 404,
    NoSuchTableError: 404,
    TableAlreadyExistsError: 409,
}


class RestCatalog:
    """What it answers. It decides where tables lie: whatever the client asks for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._catalog = SqlCatalog("behind", uri=f"sqlite:///{folder}/behind.sqlite", warehouse=str(folder))
        self._one = threading.Lock()
        self.warehouses: list[str] = []
        """What clients named as their warehouse."""
        self.instead: list[int] = []
        """Codes to answer the next commits with; 504 after the commit was taken."""

    def answer(self, method: str, url: str, body: bytes) -> Answer:
        parts = urlsplit(url)
        path = [unquote(p) for p in parts.path.strip("/").split("/")]
        with self._one:
            try:
                return self._answer(method, path, parse_qs(parts.query), body)
            except tuple(_CODES) as error:
                return _failure(_CODES[type(error)], type(error).__name__, str(error))

    def _answer(self, method: str, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        match method, path:
            case "GET", ["v1", "config"]:
                self.warehouses += query.get("warehouse", [])
                return 200, {"defaults": {}, "overrides": {}}
            case "POST", ["v1", "namespaces"]:
                asked = json.loads(body)
                self._catalog.create_namespace(tuple(asked["namespace"]))
                return 200, {"namespace": asked["namespace"], "properties": {}}
            case (("GET" | "HEAD"), ["v1", "namespaces", namespace]):
                self._catalog.load_namespace_properties(namespace)
                return 200, {"namespace": [namespace], "properties": {}}
            case "GET", ["v1", "namespaces", namespace, "tables"]:
                listed = self._catalog.list_tables(namespace)
                return 200, {"identifiers": [{"namespace": [namespace], "name": n[-1]} for n in listed]}
            case "POST", ["v1", "namespaces", namespace, "tables"]:
                asked = json.loads(body)
                schema = Schema.model_validate(asked["schema"])
                made = self._catalog.create_table((namespace, asked["name"]), schema, properties=asked["properties"])
                return _table(made)
            case "GET", ["v1", "namespaces", namespace, "tables", name]:
                return _table(self._catalog.load_table((namespace, name)))
            case "POST", ["v1", "namespaces", namespace, "tables", name]:
                return self._commit((namespace, name), CommitTableRequest.model_validate_json(body))
        return _failure(404, "NotFoundException", "/".join(path))

    def _commit(self, name: tuple[str, str], asked: CommitTableRequest) -> Answer:
        code = self.instead.pop(0) if self.instead else None
        if code not in (None, 504):
            return _failure(code or 0, "Refused", "as it was asked to")
        done = self._catalog.commit_table(self._catalog.load_table(name), asked.requirements, asked.updates)
        if code is not None:
            return _failure(code, "Timeout", "nobody knows")
        return 200, done.model_dump(mode="json", by_alias=True)


def _table(table: Table) -> Answer:
    metadata = table.metadata.model_dump(mode="json", by_alias=True)
    return 200, {"metadata-location": table.metadata_location, "metadata": metadata, "config": {}}


def _failure(code: int, kind: str, message: str) -> Answer:
    return code, {"error": {"message": message, "type": kind, "code": code}}


@contextmanager
def serve(answer: Callable[[str, str, bytes], Answer]) -> Iterator[str]:
    """Its URL; who comes without the token is sent away."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, document = _failure(401, "Unauthorized", "no token")
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                code, document = answer(self.command, self.path, body)
            said = json.dumps(document).encode() if self.command != "HEAD" else b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_POST = do_HEAD = do_GET  # noqa: N815 - as the library calls them

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
