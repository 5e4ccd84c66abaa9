"""A hub on this machine, of folders: as much of its protocol as huggingface_hub, transformers and datasets speak."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Repositories, each with its commits and the names of some of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.visibility: dict[str, str] = {}  # of created repositories
        self.tokens: set[str | None] = set()  # of whom asked
        self.refs: dict[tuple[str, str], dict[str, str]] = {}  # (kind, repository) -> branch or tag -> commit

    def commit(self, kind: str, repository: str, folder: Path, *names: str) -> str:
        """A new commit of a repository, which is what a folder holds; returns it. names: its branches and tags."""
        refs = self.refs.setdefault((kind, repository), {})
        commit = hashlib.sha1(f"{kind} {repository} {len(refs)}".encode()).hexdigest()
        shutil.copytree(folder, self.root / kind / repository / commit)
        refs.update(dict.fromkeys((*names, commit), commit))
        return commit

    def create(self, repository: str, visibility: str) -> str:
        """A model's repository, with the file that each has from the beginning; returns its address."""
        if repository.startswith("nobody/"):
            raise PermissionError("not yours")
        if ("model", repository) in self.refs:
            raise FileExistsError
        self.visibility[repository] = visibility
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, ".gitattributes").touch()
            self.commit("model", repository, Path(folder), "main")
        return f"https://huggingface.co/{repository}"

    def branch(self, repository: str, name: str) -> None:
        refs = self.refs["model", repository]
        if name in refs:
            raise FileExistsError
        refs[name] = refs["main"]

    def push(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> str:
        """A commit of what an upload adds; returns its address."""
        with tempfile.TemporaryDirectory() as folder:
            whole = shutil.copytree(self.folder("model", repository, branch), Path(folder, "whole"))
            for line in lines:
                if line["key"] == "file":
                    (whole / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
            return f"https://huggingface.co/{repository}/commit/{self.commit('model', repository, whole, branch)}"

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

    def answer(self) -> None:
        asked = urlsplit(self.path)
        parts = [unquote(part) for part in asked.path.strip("/").split("/")]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.hub.tokens.add(self.headers["Authorization"])
        try:
            match parts:
                case ["api", ("models" | "datasets") as kinds, owner, name, "tree", revision, *below]:
                    folder = self.hub.folder(kinds.removesuffix("s"), f"{owner}/{name}", revision)
                    everything = "recursive=true" in asked.query.lower()
                    found = folder.joinpath(*below).glob("**/*" if everything else "*")
                    self._say([_told(folder, path) for path in sorted(found)])
                case ["api", ("models" | "datasets") as kinds, owner, name, "paths-info", revision]:
                    folder = self.hub.folder(kinds.removesuffix("s"), f"{owner}/{name}", revision)
                    wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
                    self._say([_told(folder, folder / path) for path in wanted if (folder / path).exists()])
                case ["datasets", owner, name, "resolve", revision, *path]:
                    self._give(self.hub.folder("dataset", f"{owner}/{name}", revision), "/".join(path))
                case [owner, name, "resolve", revision, *path]:
                    self._give(self.hub.folder("model", f"{owner}/{name}", revision), "/".join(path))
                case ["api", *told] if self.command == "POST":
                    self._say(self._write(told, body))
                case ["api", ("models" | "datasets") as kinds, owner, name, *revision]:
                    its = kinds.removesuffix("s"), f"{owner}/{name}"
                    folder = self.hub.folder(*its, revision[1] if revision else "main")
                    files = sorted(path for path in folder.rglob("*") if path.is_file())
                    names = [{"rfilename": str(path.relative_to(folder))} for path in files]
                    self._say({"id": f"{owner}/{name}", "sha": folder.name, "siblings": names})
                case _:
                    raise LookupError("EntryNotFound")
        except PermissionError as error:
            self._send(403, b"", {"X-Error-Message": str(error)})
        except FileExistsError:
            self._send(409, b"", {})
        except LookupError as error:
            self._send(404, b"", {"X-Error-Code": error.args[0]})

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def _write(self, asked: list[str], body: str) -> object:
        """What an upload asks for, step by step."""
        match asked:
            case ["repos", "create"]:
                told = json.loads(body)
                return {"url": self.hub.create(f"{told['organization']}/{told['name']}", told.get("visibility", ""))}
            case ["validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["models", owner, name, "branch", branch]:
                self.hub.branch(f"{owner}/{name}", branch)
                return {}
            case ["models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                return {
                    "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                }
            case ["models", owner, name, "commit", branch]:
                lines = [json.loads(line) for line in body.splitlines()]
                address = self.hub.push(f"{owner}/{name}", branch, lines)
                return {"commitUrl": address, "commitOid": address.rpartition("/")[2]}
        raise LookupError("EntryNotFound")

    def _say(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

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
