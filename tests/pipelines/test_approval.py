"""Approval by a person on a real Prefect server with a real worker, over the API and in a browser; notifications."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from graft import params, publication, registration, stages
from graft.identity import digest_folder
from graft.tracking import RunContext, journal, registry
from graft.tracking.server import connect
from graft.workspace import Workspace, write_json
from tests.conftest import git, write_project

ROOT = Path(__file__).parents[2]
NAME = "toy-topic"
IGNORED = "/artifacts/\n.graft/\n__pycache__/\n/mlflow/store/\n/base/\n/data/\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, own_settings: None) -> Workspace:
    """A clone with this checkout's flows and one published candidate that needs an approval."""
    root = tmp_path_factory.mktemp("approval") / "clone"
    workspace = write_project(root, tiny_base, {"promotion": {"approval": "required", "approval_hours": 48}})
    for name in ("pipelines", "src"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "prefect.yaml", root / "prefect.yaml")
    (root / ".gitignore").write_text(IGNORED)
    git(root, "init", "--quiet", "--initial-branch=main", ".")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    for stage in ("validate", "tokenize", "train", "evaluate"):
        stages.run(stage, workspace)
    shutil.copytree(workspace.adapter, workspace.package / "adapter")
    proof = registration.prove(workspace.adapter, workspace.root) | {"passed": True, "tolerance": 1e-4}
    write_json(workspace.package / "proof.json", proof | {"adapter": digest_folder(workspace.adapter)})
    write_json(workspace.package / "input_example.json", {"text": "the cat meows"})
    loaded = params.load(workspace.params)
    names = ("task", "base", "adapter", "training", "registration", "tracking")
    publication.publish(workspace, context=RunContext(), **{name: getattr(loaded, name) for name in names})
    return workspace


@pytest.fixture
def worker(start: Callable[..., Any], until: Callable[..., Any], api: Any, project: Workspace) -> Iterator[None]:
    """``graft worker`` of the project's clone."""
    process = start("graft", "worker", at=project)

    def online() -> bool:
        answer = httpx.post(f"{api.url}/work_pools/graft/workers/filter", json={}, timeout=20)
        return answer.status_code == 200 and any(one["status"] == "ONLINE" for one in answer.json())

    assert until(online, 240), process.poll()
    yield
    process.terminate()
    process.wait(60)


def begin(api: Any, name: str, parameters: dict[str, Any]) -> str:
    found = httpx.get(f"{api.url}/deployments/name/{name}", timeout=20).json()["id"]
    return str(api.post(f"deployments/{found}/create_flow_run", {"parameters": parameters})["id"])


def state(api: Any, flow_run: str) -> str:
    return str(api.flow_run(flow_run)["state"]["name"])


def events(api: Any, name: str) -> list[dict[str, Any]]:
    found = api.post("events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})["events"]
    return list(found)


def entries(workspace: Workspace) -> list[journal.Entry]:
    return journal.history(connect(params.load(workspace.params).tracking, workspace), NAME)


def timers(api: Any) -> dict[str, dict[str, Any]]:
    found = api.post("flow_runs/filter", {"flows": {"name": {"any_": ["approval-timer"]}}, "limit": 50})
    return {one["name"].partition(":")[0]: one for one in found if one["state_type"] == "SCHEDULED"}


class Inbox(BaseHTTPRequestHandler):
    """Keeps what a webhook is sent."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.received.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server on loopback, and what it was sent."""
    received: list[dict[str, Any]] = []
    handler = type("Handler", (Inbox,), {"received": received})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()
    server.server_close()


def webhook(api: Any, url: str) -> None:
    """Make the block ``custom-webhook/team`` as the UI would."""
    kind = httpx.get(f"{api.url}/block_types/slug/custom-webhook", timeout=20).json()
    schemas = api.post("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})
    data = {"name": "team", "url": url, "method": "POST", "json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
    made = {
        "name": "team",
        "block_type_id": kind["id"],
        "block_schema_id": schemas[0]["id"],
        "data": data,
    }
    api.post("block_documents/", made)


def test_approval_is_asked_for_reminded_of_and_expires(
    worker: None, api: Any, until: Callable[..., Any], project: Workspace, inbox: Any, start: Callable[..., Any]
) -> None:
    webhook(api, inbox[0])
    assert start("pipelines.notify", "custom-webhook/team", at=project).wait(120) == 0
    assert start("pipelines.notify", "custom-webhook/team", at=project).wait(120) == 0
    automations = {one["name"] for one in api.post("automations/filter", {})}
    assert automations == {"graft: decided", "graft: approval waits", "graft: reminder"}

    waiting = begin(api, "promote/decide", {})
    assert until(lambda: state(api, waiting) == "Suspended", 240), api.messages(waiting)
    assert entries(project) == []  # nothing is decided yet
    found = timers(api)
    asked = next(one for one in events(api, "graft.approval.waiting"))
    assert asked["resource"]["prefect.resource.id"] == f"graft.model.{NAME}"
    assert asked["payload"]["candidate"] == "1"
    assert set(found) == {"reminder", "end"}
    refused = httpx.post(f"{api.url}/flow_runs/{waiting}/resume", json={"run_input": {"decision": "maybe"}}, timeout=20)
    assert refused.json()["status"] == "REJECT"
    assert state(api, waiting) == "Suspended"

    for what, ended in (("reminder", "Reminded"), ("end", "Expired")):
        httpx.post(  # its time has come
            f"{api.url}/flow_runs/{found[what]['id']}/set_state",
            json={"state": {"type": "SCHEDULED", "state_details": {}}, "force": True},
            timeout=20,
        )
        assert until(lambda one=found[what]["id"], name=ended: state(api, one) == name, 240), what
    assert state(api, waiting) == "Expired"
    [entry] = entries(project)
    assert (entry.verdict, entry.after, entry.who, entry.state) == ("expired", None, "the time limit", "done")
    assert entry.why.startswith("nobody answered within 48 hours")
    assert events(api, "graft.approval.reminder")[0]["resource"]["prefect.resource.id"].endswith(waiting)
    assert until(lambda: len(inbox[1]) >= 3, 60), inbox[1]
    subjects = {one["subject"] for one in inbox[1]}
    assert f"{NAME}: version 1 waits for your approval" in subjects
    assert f"{NAME}: expired version 1" in subjects


def test_form_in_the_browser_promotes(
    worker: None, api: Any, until: Callable[..., Any], project: Workspace, browser: Any, tmp_path: Path
) -> None:
    """A person opens the suspended run in the Prefect UI, fills the form in, and the flow goes on."""
    before = len(entries(project))
    waiting = begin(api, "promote/decide", {})
    assert until(lambda: state(api, waiting) == "Suspended", 240), api.messages(waiting)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{api.url.removesuffix('/api')}/runs/flow-run/{waiting}")
    page.get_by_role("button", name="Resume").first.click()
    page.screenshot(path=str(tmp_path / "form.png"))
    form = page.locator("[role=dialog], .p-modal").first
    form.wait_for()
    print(form.inner_html())
    pytest.fail("look")
    assert len(entries(project)) == before + 1
    assert registry.champion_number(connect(params.load(project.params).tracking, project), NAME) == "1"
