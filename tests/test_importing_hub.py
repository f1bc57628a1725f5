"""A data set on the Hub: the real client and the real library against a small server that speaks the Hub's protocol."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest

from graft.identity import digest_bytes
from graft.workspace import SPLITS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/name"
RUN = """
import json, sys
from pathlib import Path
from graft import tasks
from graft.errors import GraftError
from graft.importing import Choices, import_data
from graft.workspace import Workspace
fields = tasks.get(sys.argv[1]).fields
for choices in json.loads(sys.argv[2]):
    source = choices.pop("source", "hub:org/name")
    try:
        chosen = {"choices": Choices(**choices), "split": (60, 20, 20)}
        found = import_data(source, Workspace(Path("project")), fields=fields, **chosen)
        print(json.dumps(found.provenance))
    except GraftError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The endpoints that loading a data set asks."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: Any) -> None:
        self.answer(json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        api, _, rest = path.partition(f"/api/datasets/{NAME}/")
        if path.startswith(f"/datasets/{NAME}/resolve/{COMMIT}/"):
            self.file(path.partition(f"{COMMIT}/")[2])
        elif not api and rest in (f"revision/{name}" for name in ("main", COMMIT)):
            self.answer_json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]})
        elif not api and rest.startswith(f"tree/{COMMIT}"):
            whole = "recursive=true" in self.path.lower()
            self.answer_json(self.tree(rest.removeprefix(f"tree/{COMMIT}").strip("/"), whole=whole))
        else:
            self.answer(b"", 404, X_Error_Code="RevisionNotFound" if rest else "RepoNotFound")

    do_HEAD = do_GET

    def file(self, name: str) -> None:
        content = self.files.get(name)
        if content is None:
            self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self.answer(content, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    def tree(self, folder: str, *, whole: bool) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            parts = Path(name).relative_to(folder).parts if name.startswith(folder) else ()
            for depth in range(1, len(parts) + 1 if whole else min(len(parts), 1) + 1):
                path = Path(folder, *parts[:depth]).as_posix()
                kind = "file" if depth == len(parts) else "directory"
                found[path] = {
                    "type": kind,
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
        return list(found.values())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    """Serve files as org/name; return what imports that data set, once for each choices, in a process of its own."""
    (tmp_path / "project").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parent.parent / "src"),
    }

    def imported(task: str, files: dict[str, bytes], *choices: dict[str, str]) -> list[dict[str, Any]]:
        Hub.files = files
        command = [sys.executable, "-c", RUN, task, json.dumps(choices)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    yield imported
    server.shutdown()
    server.server_close()


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    files = [path for split in SPLITS for path in sorted((tmp_path / "project" / "data" / split).iterdir())]
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def test_a_data_set_is_loaded_at_the_commit_of_its_revision(hub: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, file = {"text": [f"text {n}" for n in range(20)], "label": ["a", "b"] * 10}, io.BytesIO()
    pq.write_table(pa.table(table), file)
    card = b"---\nconfigs:\n- config_name: en\n  data_files: data/train*\n---\n"
    files = {"README.md": card, "data/train-00000-of-00001.parquet": file.getvalue()}
    wrong = ({"revision": "v7"}, {"source": "hub:org/other"})
    missing, absent, found = hub("text_classification", files, *wrong, {"config": "en"})
    assert missing == {
        "error": "ResourceMissing",
        "message": "--revision: org/name has no revision 'v7' on the Hub",
    }
    assert absent["message"].startswith("hub:org/other: no such data set on the Hub, or it is private")
    rows = {"train": 12, "validation": 4, "test": 4}
    assert found == {"source": "hub:org/name", "revision": COMMIT, "config": "en", "rows": rows}
    assert sorted((row["text"], row["label"]) for row in lines(tmp_path)) == sorted(zip(*table.values(), strict=True))


def test_pictures_of_a_data_set_are_read_from_where_the_client_put_them(
    hub: Any, tmp_path: Path, picture_of: Any
) -> None:
    contents = {f"train/{label}/{n}.png": picture_of(label, n) for label in ("left", "right") for n in range(5)}
    (summary,) = hub("image_classification", contents, {})
    assert summary["revision"] == COMMIT
    found = {
        digest_bytes((tmp_path / "project" / "data" / row["image"]).read_bytes()): row["label"]
        for row in lines(tmp_path)
    }
    assert found == {digest_bytes(content): name.split("/")[1] for name, content in contents.items()}
