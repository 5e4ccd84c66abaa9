"""A hub on this machine, of folders: as much of its protocol as huggingface_hub, transformers and datasets speak."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Repositories, each with its commits and the names of some of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refs: dict[tuple[str, str], dict[str, str]] = {}  # (kind, repository) -> branch or tag -> commit

    def commit(self, kind: str, repository: str, folder: Path, *names: str) -> str:
        """A new commit of a repository, which is what a folder holds; returns it. names: further ones than main."""
        refs = self.refs.setdefault((kind, repository), {})
        commit = hashlib.sha1(f"{kind} {repository} {len(refs)}".encode()).hexdigest()
        shutil.copytree(folder, self.root / kind / repository / commit)
        refs.update(dict.fromkeys(("main", *names, commit), commit))
        return commit

    def folder(self, kind: str, repository: str, revision: str) -> Path:
        """Of a revision; raises `LookupError`, with the hub's own code, for none."""
        if (kind, repository) not in self.refs:
            raise LookupError("RepoNotFound")
        if revision not in self.refs[kind, repository]:
            raise LookupError("RevisionNotFound")
        return self.root / kind / repository / self.refs[kind, repository][revision]

    @contextmanager
    def served(self) -> Iterator[str]:
        """The hub's address, as in HF_ENDPOINT."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (_Handler,), {"hub": self}))
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        parts = [unquote(part) for part in asked.path.strip("/").split("/")]
        try:
            match parts:
                case ["api", ("models" | "datasets") as kinds, owner, name, *rest]:
                    self._tell(
                        kinds.removesuffix("s"), f"{owner}/{name}", rest, "recursive=true" in asked.query.lower()
                    )
                case ["datasets", owner, name, "resolve", revision, *path]:
                    self._give(self.hub.folder("dataset", f"{owner}/{name}", revision), "/".join(path))
                case [owner, name, "resolve", revision, *path]:
                    self._give(self.hub.folder("model", f"{owner}/{name}", revision), "/".join(path))
                case _:
                    raise LookupError("EntryNotFound")
        except LookupError as error:
            self._send(404, b"", {"X-Error-Code": error.args[0]})

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _tell(self, kind: str, repository: str, rest: list[str], recursive: bool) -> None:
        asked, revision, *below = [*rest, *["revision", "main"][len(rest) :]]
        folder = self.hub.folder(kind, repository, revision)
        if asked == "tree":
            paths = folder.joinpath(*below).glob("**/*" if recursive else "*")
        elif asked == "paths-info":
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            paths = (folder / name for name in wanted if (folder / name).exists())
        else:
            paths = folder.rglob("*")
        its = [_told(folder, path) for path in sorted(paths)]
        if asked == "revision":
            names = [{"rfilename": file["path"]} for file in its if file["type"] == "file"]
            its = {"id": repository, "sha": folder.name, "siblings": names}
        self._send(200, json.dumps(its).encode(), {"Content-Type": "application/json"})

    def _give(self, folder: Path, name: str) -> None:
        path = folder / name
        if not path.is_file():
            raise LookupError("EntryNotFound")
        self._send(200, path.read_bytes(), {"X-Repo-Commit": folder.name, "ETag": f'"{_digest(path)}"'})

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _told(folder: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40}
    return {"type": "file", "path": name, "oid": _digest(path), "size": path.stat().st_size}


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
