"""Approval by a person on a real Prefect server with a real worker, over the API and in a browser; notifications."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from graft import params, publication, services
from graft.tracking import RunContext, journal
from graft.tracking.server import connect
from graft.workspace import Workspace
from tests.conftest import git, packed, write_project

ROOT = Path(__file__).parents[2]
NAME = "toy-topic"
PICTURES = "PICTURES"
"""The environment variable that names a folder for pictures of the pages."""
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
    packed(workspace)
    loaded = params.load(workspace.params)
    names = ("task", "base", "adapter", "training", "registration", "tracking")
    publication.publish(workspace, context=RunContext(), **{name: getattr(loaded, name) for name in names})
    return workspace


@pytest.fixture
def worker(start: Callable[..., Any], until: Callable[..., Any], api: Any, project: Workspace) -> Iterator[None]:
    """``graft worker`` of the project's clone."""
    process = start("graft", "worker", at=project)
    assert until(lambda: api.online("graft"), 240), process.poll()
    yield
    process.terminate()
    process.wait(60)


def begin(api: Any, name: str, parameters: dict[str, Any]) -> str:
    found = api.get(f"deployments/name/{name}")["id"]
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
    kind = api.get("block_types/slug/custom-webhook")
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
    assert until(lambda: len(timers(api)) == 2 and events(api, "graft.approval.waiting"), 60)
    found, [asked, *_] = timers(api), events(api, "graft.approval.waiting")
    assert asked["resource"]["prefect.resource.id"] == f"graft.model.{NAME}"
    assert asked["payload"]["candidate"] == "1"
    assert set(found) == {"reminder", "end"}
    assert api.resume(waiting, {"decision": "maybe"}) == "REJECT"
    assert state(api, waiting) == "Suspended"

    for what, ended in (("reminder", "Reminded"), ("end", "Expired")):
        due = {"state": {"type": "SCHEDULED", "state_details": {}}, "force": True}
        api.post(f"flow_runs/{found[what]['id']}/set_state", due)  # its time has come
        assert until(lambda one=found[what]["id"], name=ended: state(api, one) == name, 240), what
    assert state(api, waiting) == "Expired"
    [entry] = entries(project)
    assert (entry.verdict, entry.after, entry.who, entry.state) == ("expired", None, "the time limit", "done")
    assert entry.why.startswith("nobody answered within 48 hours")
    assert until(lambda: events(api, "graft.approval.reminder"), 60)
    assert events(api, "graft.approval.reminder")[0]["resource"]["prefect.resource.id"].endswith(waiting)
    assert until(lambda: len(inbox[1]) >= 3, 60), inbox[1]
    subjects = {one["subject"] for one in inbox[1]}
    assert f"{NAME}: version 1 waits for your approval" in subjects
    assert f"{NAME}: expired version 1" in subjects


@pytest.fixture
def mlflow_ui(project: Workspace) -> Iterator[str]:
    """MLflow's UI over the project's store."""
    server = services.start_mlflow(project, f"sqlite:///{project.root}/mlflow/store/mlflow.db")
    server.wait()
    yield server.url
    server.end()


def version_page(browser: Any, url: str) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(60_000)
    page.goto(f"{url}/#/models/{NAME}/versions/1?workflowType=machine_learning")
    page.get_by_text("Reload proof").wait_for()
    return page


def test_reviewers_tag_and_form_are_used_in_a_browser(
    worker: None, api: Any, until: Callable[..., Any], project: Workspace, browser: Any, mlflow_ui: str
) -> None:
    """A tag that is set on MLflow's version page is heard; then a person fills in Prefect's form, and the flow goes on.

    Pictures of the pages are kept where the environment variable PICTURES names a folder.
    """
    client = connect(params.load(project.params).tracking, project).client
    page = version_page(browser, mlflow_ui)
    page.get_by_label("tag name").fill("review")
    page.get_by_label("tag value").fill("rejected")
    page.get_by_role("button", name="Add", exact=True).click()
    assert until(lambda: client.get_model_version(NAME, "1").tags.get("review") == "rejected", 60)
    rejected = begin(api, "promote/decide", {})
    assert until(lambda: state(api, rejected) == "Kept", 240), api.messages(rejected)
    assert entries(project)[0].verdict == "rejected"
    assert entries(project)[0].why.startswith("a reviewer set review = rejected on version 1")
    client.delete_model_version_tag(NAME, "1", "review")

    waiting = begin(api, "promote/decide", {})
    assert until(lambda: state(api, waiting) == "Suspended", 240), api.messages(waiting)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{api.url.removesuffix('/api')}/runs/flow-run/{waiting}")
    page.get_by_role("button", name="Resume").first.click()
    page.get_by_text("Does this version become champion?").wait_for()
    form = page.locator("#p-modal-teleport-target")
    form.locator("textarea").nth(0).fill("Ada")
    form.locator("textarea").nth(1).fill("agreed in review 12")
    form.locator(".p-select button").first.focus()
    page.keyboard.press("ArrowDown")
    page.get_by_role("option", name="approve").click()
    keep(page, "form")
    form.get_by_role("button", name="Submit").click()
    assert until(lambda: state(api, waiting) == "Promoted", 240), api.messages(waiting)
    entry = entries(project)[0]
    assert (entry.verdict, entry.after, entry.who) == ("promote", "1", "Ada")
    assert entry.why.startswith("approved by Ada: agreed in review 12 (")
    assert str(client.get_registered_model(NAME).aliases["champion"]) == "1"

    page = version_page(browser, mlflow_ui)
    link = page.get_by_role("link", name=f"decision {entry.number}", exact=True)
    link.wait_for()
    keep(page, "version")
    page.goto(f"{mlflow_ui}{link.get_attribute('href')}")
    page.get_by_text("agreed in review 12").first.wait_for()
    keep(page, "decision")


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get(PICTURES):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
