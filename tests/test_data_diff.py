"""`graft data diff`: rows, labels, lengths and checks of two revisions, from git and DVC as they are."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from graft import data_diff, params
from graft.data_diff import Example, compare
from graft.errors import ConfigError, GraftError, InputError, IntegrityError, ResourceMissing
from graft.identity import digest_folder
from graft.repository import Repository
from graft.revisions import Revision, revision
from graft.workspace import SPLITS, Workspace
from tests.conftest import copied_clone, git, write_clone, write_rows
from tests.test_cli import invoke

PARAMS = """\
task:
  name: text_classification
base:
  source: ./base
tracking:
  experiment: toy
"""
STAGE = """\
stages:
  validate:
    cmd: {python} verdict.py
    deps: [data]
    outs: [artifacts/validation]
"""
VERDICT = """\
import json, pathlib
rows = [json.loads(l) for p in pathlib.Path("data/train").iterdir() for l in p.read_text().splitlines()]
found = {"checks": [
    {"expectation": "in_set", "column": "label", "severity": "warn", "failed": sum(r["label"] == "z" for r in rows)},
    {"expectation": "regex", "column": "text", "severity": "fail", "failed": 0},
    {"expectation": "regex", "column": "text", "severity": "fail", "failed": sum("@" in r["text"] for r in rows)},
], "quarantined": ["data/train/part-1.jsonl:1"] * any(r["label"] == "z" for r in rows)}
out = pathlib.Path("artifacts/validation"); out.mkdir(parents=True, exist_ok=True)
(out / "verdict.json").write_text(json.dumps(found))
"""
CONFIG = """\
[core]
    remote = shared
[cache]
    type = copy
['remote "shared"']
    url = ../../shared
"""
FILES = {
    "dvc.yaml": STAGE.format(python=sys.executable),
    "verdict.py": VERDICT,
    "params.yaml": PARAMS,
    ".gitignore": "/data\n/artifacts\n/.graft\n/mlflow\n",
    ".dvcignore": ".graft/\n",
    ".dvc/config": CONFIG,
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
}
EMAIL = "jane.doe@mail.example.com"


def rows_of(split: str, part: int, count: int = 6) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}-{part}-{n}", "text": f"{split} text {part} {n}", "label": "xy"[n % 2]} for n in range(count)
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, own_settings: None) -> Path:
    """A repository with three parts of training rows, its data in DVC."""
    root = tmp_path_factory.mktemp("template") / "clone"
    for split in SPLITS:
        for part in range(3 if split == "train" else 1):
            write_rows(root / "data" / split / f"part-{part}.jsonl", rows_of(split, part))
    write_clone(root, FILES)
    Repository(Workspace(root)).push()
    return root.parent


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(template / "shared", tmp_path / "shared")
    return copied_clone(template, tmp_path)


def commit(clone: Workspace, message: str = "more", *, push: bool = False) -> str:
    Repository(clone).add_data()
    if push:
        Repository(clone).push()
    git(clone.root, "add", "-A")
    git(clone.root, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(clone.root, "rev-parse", "HEAD")


def edit(clone: Workspace, name: str, rows: list[dict[str, Any]]) -> None:
    (clone.data / name).unlink(missing_ok=True)
    write_rows(clone.data / name, rows)


def diff(clone: Workspace, a: str, b: str | None = None, **options: bool) -> data_diff.DataDiff:
    with revision(clone, a) as before, revision(clone, b) as after:
        return compare(clone, before, after, **options)


def counts(found: data_diff.DataDiff, split: str = "train") -> tuple[int, int, int]:
    one = found.splits[split]
    return one.added, one.removed, one.changed


def change(clone: Workspace) -> None:
    """Change one row, remove one, add two (one was in test) and add a part."""
    rows = rows_of("train", 1)
    rows[2]["label"] = "z"
    rows[3]["text"] += f" to {EMAIL}"
    del rows[5]
    moved = rows_of("test", 0)[0]
    edit(clone, "train/part-1.jsonl", [*rows, {"id": "new", "text": "a new row", "label": "x"}, moved])
    edit(clone, "test/part-0.jsonl", rows_of("test", 0)[1:])
    (clone.data / "train/part-2.jsonl").rename(clone.data / "train/renamed.jsonl")


def test_rows_are_matched_by_id_and_equal_parts_are_not_read(clone: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    change(clone)
    before = digest_folder(clone.data)
    read: list[str] = []
    real = data_diff.read_part
    monkeypatch.setattr(data_diff, "read_part", lambda path, *rest: read.append(path.name) or real(path, *rest))
    found = diff(clone, "HEAD")
    train = found.splits["train"]
    assert counts(found) == (2, 1, 2)
    assert counts(found, "test") == (0, 1, 0)
    assert counts(found, "validation") == (0, 0, 0)
    assert (train.unchanged_parts, train.parts, train.rows, train.by_id) == (2, (1, 1), (6, 7), True)
    assert found.moved == 1
    assert train.labels == {"label": {"x": (3, 4), "y": (3, 2), "z": (0, 1)}}
    assert {*read} == {"part-0.jsonl", "part-1.jsonl"}, "a renamed part is an equal part"
    assert digest_folder(clone.data) == before
    assert not [*clone.dot.glob("diff-*")]
    read.clear()
    again = diff(clone, "HEAD")
    assert again == found
    assert len(read) == 3, "what is known of a part is kept; the three with rows to show are read again"


def test_a_picture_that_changed_makes_that_part_differ_which_names_it(
    clone: Workspace, picture_of: Callable[[str, int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.params.write_text(PARAMS.replace("text_classification", "image_classification"), encoding="utf-8")
    (clone.data / "files").mkdir()
    parts = [path for split in SPLITS for path in sorted((clone.data / split).iterdir())]
    for seed, path in enumerate(parts):
        for n, side in enumerate(("left", "right")):
            (clone.data / "files" / f"{seed}-{n}.png").write_bytes(picture_of(side, 2 * seed + n))
        edit(
            clone,
            path.relative_to(clone.data).as_posix(),
            [{"image": f"files/{seed}-{n}.png", "label": "xy"[n]} for n in range(2)],
        )
    before = commit(clone, push=True)
    (clone.data / "files" / "1-0.png").unlink()
    (clone.data / "files" / "1-0.png").write_bytes(picture_of("top", 99))
    (clone.data / "files" / "of_no_row.png").write_bytes(picture_of("top", 98))
    read, fetched = list[str](), set[str]()
    real, bring = data_diff.read_part, Revision.bring
    monkeypatch.setattr(data_diff, "read_part", lambda path, *rest: read.append(path.name) or real(path, *rest))
    monkeypatch.setattr(Revision, "bring", lambda self, names: fetched.update(names) or bring(self, names))
    found = diff(clone, before)
    assert {split: counts(found, split) for split in SPLITS} == dict.fromkeys(SPLITS, (0, 0, 0)) | {"train": (1, 1, 0)}
    assert (found.splits["train"].unchanged_parts, found.splits["train"].parts) == (2, (1, 1))
    assert set(read) == {"part-1.jsonl"}
    assert {name for name in fetched if name.startswith("files/")} == {"files/1-0.png", "files/1-1.png"}
    [removed] = [one for one in found.examples if one.kind == "removed"]
    assert removed.place_before == "data/train/part-1.jsonl:1"
    fetched.clear()
    read.clear()
    assert diff(clone, before) == found
    assert not {name for name in fetched if "part-1" not in name} - {"files/1-0.png", "files/1-1.png"}


def test_whole_has_the_labels_and_lengths_of_all_rows(clone: Workspace) -> None:
    change(clone)
    found = diff(clone, "HEAD", whole=True).splits
    old = [row for part in range(3) for row in rows_of("train", part)]
    new = [json.loads(line) for path in (clone.data / "train").iterdir() for line in path.read_text().splitlines()]
    assert found["train"].labels["label"] == {
        label: tuple(sum(row["label"] == label for row in rows) for rows in (old, new)) for label in "xyz"
    }
    for side, rows in zip(found["train"].lengths["text"], (old, new), strict=True):
        lengths = sorted(len(row["text"]) for row in rows)
        assert side["rows"] == len(rows)
        assert side["mean"] == pytest.approx(sum(lengths) / len(rows))
        assert side["median"] == lengths[(len(rows) + 1) // 2 - 1]
        assert side["largest"] == lengths[-1]
    assert found["validation"].labels["label"] == {"x": (3, 3), "y": (3, 3)}


def test_shown_rows_say_what_changed_and_nothing_private(clone: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    change(clone)
    found = diff(clone, "HEAD")
    changed = [one for one in found.examples if one.kind == "changed"]
    assert {one.before["id"] for one in changed if one.before} == {"'train-1-2'", "'train-1-3'"}
    [masked] = [one for one in changed if one.before and one.before["id"] == "'train-1-3'"]
    assert masked == Example(
        "train",
        "changed",
        {"id": "'train-1-3'", "text": "'train text 1 3'", "label": "'y'"},
        {"id": "'train-1-3'", "text": "'train text 1 3 to <EMAIL_1>'", "label": "'y'"},
        "data/train/part-1.jsonl:4",
        "data/train/part-1.jsonl:4",
    )
    assert invoke("-C", str(clone.root), "data", "diff", "HEAD") == 0
    printed = capsys.readouterr().out
    assert EMAIL not in printed
    assert "changed in train: data/train/part-1.jsonl:3 -> data/train/part-1.jsonl:3" in printed
    assert "  - label: 'x'\n  + label: 'z'\n" in printed
    assert "1 of the rows that are added to a split stood in another one before" in printed
    assert invoke("-C", str(clone.root), "data", "diff", "HEAD", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["splits"]["train"]["changed"] == 2
    assert EMAIL not in json.dumps(described)


def test_another_format_of_the_same_rows_is_no_difference(clone: Workspace) -> None:
    (clone.data / "train/part-0.jsonl").unlink()
    rows = [f"{row['id']},{row['text']},{row['label']}" for row in rows_of("train", 0)]
    (clone.data / "train/part-0.csv").write_text("\n".join(["id,text,label", *reversed(rows)]) + "\n")
    found = diff(clone, "HEAD")
    assert counts(found) == (0, 0, 0)
    assert found.is_empty
    assert found.splits["train"].parts == (1, 1)


def test_rows_without_ids_are_matched_by_what_they_say(clone: Workspace) -> None:
    bare = [{key: row[key] for key in ("text", "label")} for row in rows_of("train", 0)]
    for name in ("train/part-1.jsonl", "train/part-2.jsonl"):
        (clone.data / name).unlink()
    edit(clone, "train/part-0.jsonl", [*bare, bare[0]])
    old = commit(clone)
    edit(clone, "train/part-0.jsonl", [*bare[1:], {**bare[0], "label": "z"}])
    found = diff(clone, old)
    assert found.splits["train"].by_id is False
    assert counts(found) == (1, 2, 0)
    ids = diff(clone, f"{old}~1", old)
    assert counts(ids) == (1, 12, 0), "ids on one side alone match nothing"


def test_a_revision_is_read_as_it_was_and_pulled_from_the_remote(clone: Workspace) -> None:
    """Renamed columns are no difference; the cache is empty, the remote has the data."""
    old = commit(clone, push=True)
    clone.params.write_text(PARAMS + "data:\n  columns: {text: body}\n")
    for path in clone.data.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        edit(clone, path.relative_to(clone.data).as_posix(), [{"body": row.pop("text"), **row} for row in rows])
    new = commit(clone, push=True)
    shutil.rmtree(clone.root / ".dvc" / "cache")
    shutil.rmtree(clone.data)
    found = diff(clone, old, new)
    assert found.is_empty
    assert found.splits["train"].parts == (3, 3)
    assert not clone.data.exists()
    shutil.rmtree(clone.root / ".dvc" / "cache")
    shutil.rmtree(clone.root.parent / "shared")
    with pytest.raises(ResourceMissing, match=r"objects? .*in the remote `shared`.*`dvc push` them|cannot get"):
        diff(clone, old, new)


def test_params_that_no_longer_fit_are_replaced_and_said(clone: Workspace) -> None:
    clone.params.write_text("task: {name: of_another_time}\n")
    old = commit(clone)
    clone.params.write_text(PARAMS)
    found = diff(clone, old)
    assert found.is_empty
    assert found.notes[0].startswith(f"{old}: its params.yaml cannot be used by this version of Graft")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("no-such-branch", InputError, "'no-such-branch': no such git revision here"),
        ("--all", InputError, "'--all': no such git revision"),
        ("empty", ConfigError, "empty: commit [0-9a-f]{12} has no data.dvc"),
        ("models:/toy", InputError, "must be models:/NAME@ALIAS or models:/NAME/NUMBER"),
    ],
)
def test_what_is_no_revision_of_the_data_is_named(
    clone: Workspace, name: str, kind: type[GraftError], message: str
) -> None:
    git(clone.root, "checkout", "--quiet", "--orphan", "other")
    git(clone.root, "rm", "-rfq", "--cached", ".")
    git(clone.root, "commit", "--quiet", "--allow-empty", "-m", "nothing")
    git(clone.root, "branch", "empty")
    with pytest.raises(kind, match=message):
        diff(clone, name)


@pytest.mark.parametrize("is_repository", [True, False])
def test_before_the_first_commit_it_says_what_to_do(tmp_path: Path, is_repository: bool) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if is_repository:
        git(tmp_path, "init", "--quiet")
    with pytest.raises(InputError, match=r"'HEAD': nothing is committed here yet.*`git init`, `git add -A`"):
        diff(Workspace(tmp_path), "HEAD")


def test_a_damaged_object_of_the_cache_is_refused(clone: Workspace) -> None:
    change(clone)
    digest = Repository(clone).dvc.present()[1]["train/part-0.jsonl"]
    assert diff(clone, "HEAD").splits["train"].unchanged_parts == 2
    shutil.rmtree(clone.store)
    old = Repository(clone).git.read("HEAD", "data.dvc")
    assert digest not in old
    for path in (clone.root / ".dvc/cache").rglob("*"):
        if path.is_file() and "train text 1 0" in path.read_text():
            path.chmod(0o644)
            path.write_text('{"text": "planted", "label": "x"}\n')
    with pytest.raises(IntegrityError, match="its bytes are not those that its name says"):
        diff(clone, "HEAD")


def test_test_sets_from_elsewhere_that_differ_are_named(clone: Workspace) -> None:
    assert not any("test_sets" in note for note in diff(clone, "HEAD").notes)
    path = clone.data / "test_sets" / "shop" / "part.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"text": "from a shop", "label": "x"}\n')
    found = diff(clone, "HEAD")
    assert [note for note in found.notes if "test_sets" in note] == ["data/test_sets/shop: added"]
    assert found.is_empty


def test_a_model_version_stands_for_the_commit_of_its_run(clone: Workspace) -> None:
    from graft.tracking import registry
    from graft.tracking.server import connect, experiment_id

    config = params.load(clone.params).tracking
    connection = connect(config, clone)
    experiment = experiment_id(connection, config, clone)
    registry.ensure_model(connection, "toy", description="", tags={})
    head = git(clone.root, "rev-parse", "HEAD")
    for tags in ({"graft.git_commit": head}, {}):
        run = connection.client.create_run(experiment).info.run_id
        model = connection.client.create_logged_model(experiment, "model", run)
        registry.create(connection, "toy", model=model, run_id=run, description="", tags=tags)
    connection.client.set_registered_model_alias("toy", registry.CHAMPION, "1")
    change(clone)
    for name in ("models:/toy/1", "models:/toy@champion"):
        found = diff(clone, name)
        assert (found.a["name"], found.a["commit"]) == (name, head)
        assert counts(found) == (2, 1, 2)
    with pytest.raises(IntegrityError, match=r"models:/toy/2: records no commit \(tag graft\.git_commit\)"):
        diff(clone, "models:/toy/2")
    with pytest.raises(InputError, match="no version '9'"):
        diff(clone, "models:/toy/9")


def test_checks_whose_result_changed_come_from_the_verdicts_of_both_runs(clone: Workspace) -> None:
    """The stage is a short script here: what is compared is what any run recorded in dvc.lock."""
    run = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(run, cwd=clone.root, check=True)
    old = commit(clone)
    change(clone)
    found = diff(clone, old)
    assert found.checks is None
    assert found.notes == [
        "the working tree: no result of validate is recorded for this data; `graft run` there makes one"
    ]
    Repository(clone).add_data()
    subprocess.run(run, cwd=clone.root, check=True)
    for again in (diff(clone, old), diff(clone, old, commit(clone))):
        assert [(one.check, one.column, one.before, one.after) for one in again.checks or ()] == [
            ("in_set", "label", "passed (warn)", "1 failed (warn)"),
            ("regex", "text", "passed (fail)", "1 failed (fail)"),
            ("quarantine", "train", "0 rows", "1 row"),
        ]
    assert diff(clone, old, old).checks == []


def brute(a: list[tuple[int, int]], b: list[tuple[int, int]], by_id: bool) -> tuple[int, int, int]:
    """Match rows one by one."""
    sides: list[dict[int, Counter[int]]] = [defaultdict(Counter), defaultdict(Counter)]
    for rows, side in ((a, sides[0]), (b, sides[1])):
        for name, values in rows:
            side[name if by_id and name else values][values] += 1
    added = removed = changed = 0
    for key in {*sides[0], *sides[1]}:
        first, later = sides[0][key] - sides[1][key], sides[1][key] - sides[0][key]
        same = min(first.total(), later.total())
        changed, removed, added = changed + same, removed + first.total() - same, added + later.total() - same
    return added, removed, changed


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_matching_agrees_with_row_by_row_whatever_the_passes(
    seed: int, by_id: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    source = random.Random(seed)
    sides = [
        [(source.choice([0, *range(1, 30)]), source.randint(101, 112)) for _ in range(source.randint(0, 80))]
        for _ in range(2)
    ]

    class Rows:
        def __init__(self, rows: list[tuple[int, int]]) -> None:
            cuts = [0, len(rows) // 3, len(rows)]
            self.digests = [np.array(rows[start:end], dtype=np.uint64).reshape(-1, 2) for start, end in pairwise(cuts)]
            self.rows = len(rows)

        def total(self, name: str) -> int:
            return self.rows

    a, b = (Rows(rows) for rows in sides)
    for limit in (1 << 20, 10, 1):
        monkeypatch.setattr(data_diff, "BUCKET_ROWS", limit)
        found = data_diff._matched(a, b, by_id=by_id)  # type: ignore[arg-type]
        assert tuple(found.counts[kind] for kind in data_diff.KINDS) == brute(*sides, by_id)
        for kind, places in found.places.items():
            assert bool(places) == bool(found.counts[kind])
            assert len(places) <= data_diff.EXAMPLES
            for before, after in places:
                assert (before is None, after is None) == (kind == "added", kind == "removed")
                if before and after:
                    one, other = a.digests[before[0]][before[1]], b.digests[after[0]][after[1]]
                    assert one[0] == other[0] != 0
                    assert one[1] != other[1]
