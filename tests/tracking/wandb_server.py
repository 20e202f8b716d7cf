"""A stand-in for W&B's server: as much of its interface as a run and `wandb sync` use, kept in memory."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0" * 40


@dataclass
class Server:
    """What it was told. `lines`: per run, history by offset, as W&B keeps it: a line sent again replaces."""

    address: str = ""
    hangs: threading.Event = field(default_factory=threading.Event)  # while set, it answers nothing
    dies: threading.Event = field(default_factory=threading.Event)  # while set, it breaks connections off
    lines: dict[str, dict[int, dict]] = field(default_factory=dict)
    runs: dict[str, dict] = field(default_factory=dict)
    views: list[dict] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def history(self, run: str) -> list[dict]:
        return [line for _, line in sorted(self.lines.get(run, {}).items())]

    def answer(self, path: str, body: str) -> dict:
        self.bodies.append(body)
        if path.endswith("/graphql"):
            request = json.loads(body)
            return {"data": self._graphql(request["query"], request.get("variables") or {})}
        if found := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self._stream(found.group(1), json.loads(body))
        return {}

    def _stream(self, run: str, body: dict) -> None:
        history = (body.get("files") or {}).get("wandb-history.jsonl")
        if history:
            lines = self.lines.setdefault(run, {})
            lines |= {history["offset"] + n: json.loads(text) for n, text in enumerate(history["content"])}

    def _graphql(self, query: str, given: dict) -> dict:
        if "upsertBucket" in query:
            return self._upsert(given)
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if "createArtifact" in query:  # as one that the server has already, so that nothing is uploaded
            self.artifacts.append(given.get("artifactCollectionName") or str(given.get("input")))
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if "query ArtifactType" in query:
            return {"project": {"artifact": None}}
        if "upsertView" in query:
            return self._upsert_view(given)
        if "RunResumeStatus" in query:
            return {"model": {"id": "m", "name": "wasi", "entity": {"id": "e", "name": "someone"},
                              "bucket": self._bucket(given["name"])}}
        if "allViews" in query:
            return {"project": {"allViews": self._all_views(given)}}
        if "internalId" in query or "query ProjectInternalId" in query:
            return {"project": {"id": "p", "internalId": "p1"}}
        if "query GetProjects" in query or "models(" in query:
            node = {"id": "p", "name": "wasi", "entityName": "someone", "createdAt": "2024-01-01T00:00:00Z",
                    "isBenchmark": False, "user": None}
            return {"models": {"edges": [{"node": node, "cursor": ""}],
                               "pageInfo": {"endCursor": "", "hasNextPage": False}}}
        viewer = {"id": "u", "entity": "someone", "username": "someone", "flags": "{}",
                  "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": None, "QueryType": {"fields": []}, "MutationType": {"fields": []}}

    def _upsert(self, given: dict) -> dict:
        name = given["name"]
        is_new = name not in self.runs
        self.runs[name] = self.runs.get(name, {}) | {key: value for key, value in given.items() if value is not None}
        project = {"id": "p", "name": "wasi", "entity": {"id": "e", "name": "someone"}}
        bucket = {"id": f"id-{name}", "name": name, "displayName": given.get("displayName"), "description": None,
                  "config": given.get("config"), "sweepName": None, "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _bucket(self, name: str) -> dict | None:
        if name not in self.runs:
            return None
        run, history = self.runs[name], self.history(name)
        return {
            "id": f"id-{name}", "name": name, "summaryMetrics": run.get("summaryMetrics") or "{}",
            "displayName": run.get("displayName"), "logLineCount": 0, "historyLineCount": len(history),
            "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(history[-1])] if history else []),
            "eventsTail": "[]", "config": run.get("config") or "{}", "tags": run.get("tags") or [],
            "wandbConfig": '{"t": 1}', "createdAt": "2024-01-01T00:00:00",
        }  # fmt: skip

    def _all_views(self, given: dict) -> dict:
        kind, name = given.get("viewType") or "runs", given.get("viewName")
        found = [view for view in self.views if view["type"] == kind and name in (None, view["name"])]
        page = {"endCursor": "", "hasNextPage": False}
        return {"edges": [{"node": view, "cursor": ""} for view in found], "pageInfo": page}

    def _upsert_view(self, given: dict) -> dict:
        old = next((view for view in self.views if view["id"] == given.get("id")), None)
        view = old or {"id": f"view-{len(self.views)}"}
        view |= {key: given[key] for key in ("name", "displayName", "spec", "type")}
        view |= {"description": given.get("description") or "", "previewUrl": "", "locked": False, "viewCount": 0}
        view |= dict.fromkeys(("createdAt", "updatedAt"), "2024-01-01T00:00:00")
        view["project"] = {"id": "p", "name": "wasi", "entityName": "someone"}
        view["user"] = {"username": "someone", "photoUrl": "", "email": "", "name": "someone"}
        if old is None:
            self.views.append(view)
        return {"upsertView": {"view": view, "inserted": old is None}}


@contextmanager
def served() -> Iterator[Server]:
    """A server at an address of its own until the end of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
            self._answer(server.answer(self.path, body))

        def do_GET(self) -> None:
            self._answer({})

        do_PUT = do_POST

        def _answer(self, content: dict) -> None:
            if server.hangs.is_set():
                ended.wait()
            if server.hangs.is_set() or server.dies.is_set():
                self.close_connection = True
                return
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments) -> None:
            pass

    ended = threading.Event()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.address = f"http://127.0.0.1:{listening.server_address[1]}"
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        ended.set()
        listening.shutdown()
        listening.server_close()
