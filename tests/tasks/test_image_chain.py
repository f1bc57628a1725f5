"""Pictures through the whole chain on a tiny random ViT: stages, predict, the served model."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft import artifact, params, stages, tokenization
from graft.base import lock
from graft.checks import check
from graft.errors import DataError
from graft.identity import digest_bytes, digest_folder
from graft.importing import import_data
from graft.tasks.image_classification import TASK
from graft.workspace import Workspace, read_json
from tests.conftest import PARAMS, validated, write_rows

LABELS = ("left", "right", "top")
ROWS = {"train": 60, "validation": 15, "test": 15}
SECTIONS: dict[str, Any] = {
    **PARAMS,
    "task": {"name": "image_classification"},
    "adapter": {"method": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
}


def write_image_project(root: Path, base: Path, picture_of: Callable[[str, int], bytes]) -> Workspace:
    """Write a project whose rows name pictures: imported from a folder, its base locked."""
    source, workspace, seed = root / "source", Workspace(root / "project"), 0
    for split, count in ROWS.items():
        rows = []
        for number in range(count):
            seed += 1
            label = LABELS[number % 3]
            (source / "images").mkdir(parents=True, exist_ok=True)
            (source / "images" / f"{seed}.png").write_bytes(picture_of(label, seed))
            rows.append({"id": str(seed), "image": f"images/{seed}.png", "label": label})
        write_rows(source / f"{split}.jsonl", rows)
    shutil.copytree(base, workspace.root / "base")
    workspace.params.write_text(yaml.safe_dump(SECTIONS, sort_keys=False), encoding="utf-8")
    import_data(source, workspace, fields=TASK.fields)
    lock(workspace, params.load(workspace.params).base)
    return workspace


@pytest.fixture
def images(tmp_path: Path, tiny_vit: Path, picture_of: Any) -> Workspace:
    return write_image_project(tmp_path, tiny_vit, picture_of)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path, picture_of: Any) -> Workspace:
    """A project that went through the stages up to evaluate. Read it; do not change it."""
    images = write_image_project(tmp_path_factory.mktemp("images"), tiny_vit, picture_of)
    workspace = validated(images, {"labels": LABELS})
    for stage in ("tokenize", "train", "evaluate"):
        stages.run(stage, workspace)
    return workspace


def picture_at(workspace: Workspace, split: str, row: int) -> Path:
    line = (workspace.data / split / "part-0000.jsonl").read_text().splitlines()[row]
    return workspace.data / json.loads(line)["image"]


# -- check, validate, tokenize


def test_check_knows_no_token_limit_for_pictures(images: Workspace) -> None:
    findings = check(images).findings
    found = {one.check: one for one in findings}
    assert "tokenization" not in found
    assert found["data"].text == "3 part files in 3 splits; image, label fit in the first rows of each"
    assert found["adapter"].state == "ok"
    assert found["adapter"].text.endswith("on q_proj (2), v_proj (2); in full: classifier")


@pytest.mark.slow
def test_validate_names_a_bad_picture_and_counts_repeated_ones(images: Workspace) -> None:
    shutil.copyfile(picture_at(images, "train", 0), picture_at(images, "test", 0))
    stages.run("validate", images)
    verdict = read_json(images.validation / "verdict.json")
    assert verdict["counts"]["test"] == dict.fromkeys(LABELS, 5)
    assert verdict["warnings"] == [
        "test: 1 row has the picture of a row of train (validation.severity.leakage) "
        "(data/test/part-0000.jsonl:1); the first has the picture of data/train/part-0000.jsonl:1"
    ]
    picture_at(images, "train", 3).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"data/train/part-0000\.jsonl:4: image: expected a picture"):
        stages.run("validate", images)


def test_token_tables_hold_pixels_and_count_repeated_pictures(images: Workspace, capsys: Any) -> None:
    shutil.copyfile(picture_at(images, "train", 0), picture_at(images, "test", 0))
    stages.run("tokenize", validated(images, {"labels": LABELS}))
    manifest = tokenization.read_manifest(images.tokens)
    test = manifest["splits"]["test"]
    assert (test["rows"], test["tokens"], test["truncated"], test["unknown_tokens"]) == (15, 75, 0, 0)
    assert test["also_in_train"] == 1
    assert manifest["splits"]["validation"]["also_in_train"] == 0
    assert manifest["max_length_tokens"] == 5
    assert "test: 1 row has the same patches as a training row" in capsys.readouterr().out
    table = tokenization.read_tokens(images.tokens, "test")
    assert {len(pixels) for pixels in table["pixels"].to_pylist()} == {3 * 8 * 8}


def test_tokenize_twice_and_in_other_batches_gives_the_same_bytes(images: Workspace, monkeypatch: Any) -> None:
    stages.run("tokenize", validated(images, {"labels": LABELS}))
    first, rows = digest_folder(images.tokens), tokenization.read_tokens(images.tokens, "train").to_pylist()
    stages.run("tokenize", images)
    assert digest_folder(images.tokens) == first
    monkeypatch.setattr("graft.tokenization.part_encoder.BATCH_PICTURES", 7)
    shutil.rmtree(images.store)
    stages.run("tokenize", images)
    stored = tokenization.token_rows(images.tokens, "train")
    assert len(stored) == 60
    assert [stored[number] for number in range(60)] == list(stored) == stored[:] == rows
    assert (stored[-1], stored[5:8]) == (rows[-1], rows[5:8])
    with pytest.raises(IndexError, match="60"):
        stored[60]


def test_an_added_part_with_pictures_of_its_own_is_tokenized_alone(images: Workspace, picture_of: Any) -> None:
    stages.run("tokenize", validated(images, {"labels": LABELS}))
    before = {path.name for path in (images.store / "tokenize").iterdir()}
    (images.data / "files" / "new.png").write_bytes(picture_of("top", 999))
    write_rows(images.data / "train" / "part-0001.jsonl", [{"image": "files/new.png", "label": "a new one"}])
    stages.run("tokenize", validated(images, {"labels": [*LABELS, "a new one"]}))
    after = {path.name for path in (images.store / "tokenize").iterdir()}
    assert before < after
    assert len(after) == len(before) + 1 == 4
    assert tokenization.read_tokens(images.tokens, "train")["label"].to_pylist()[-1] == "a new one"


def test_a_picture_that_changed_after_validation_is_refused(images: Workspace, picture_of: Any) -> None:
    validated(images, {"labels": LABELS})
    picture_at(images, "train", 0).write_bytes(picture_of("top", 999))
    with pytest.raises(DataError, match="data: changed since it was validated"):
        stages.run("tokenize", images)


# -- train, evaluate, predict


def test_the_adapter_learns_and_the_report_shows_its_errors_as_pictures(trained: Workspace) -> None:
    metrics = read_json(trained.evaluation / "metrics.json")
    assert metrics["adapter"]["accuracy"]["value"] > metrics["base"]["accuracy"]["value"]
    assert metrics["logistic_regression"]["accuracy"]["value"] == 1
    report = (trained.evaluation / "report.html").read_text()
    assert "5 patches, the class token counted" in report
    card = (trained.evaluation / "model_card.md").read_text()
    assert "pictures of other kinds were not measured" in card
    assert "tokens" not in card.partition("## Limits")[2].partition("## How")[0]
    assert "A picture's bytes go in" in card
    wrong = round((1 - metrics["adapter"]["accuracy"]["value"]) * ROWS["test"])
    assert report.count('<img alt="the picture of data/test/') == wrong


def test_training_twice_gives_the_same_adapter(trained: Workspace, tmp_path: Path) -> None:
    again = Workspace(tmp_path / "again")
    shutil.copytree(trained.root, again.root, ignore=shutil.ignore_patterns("adapter", "training", ".graft"))
    stages.run("train", again)
    assert digest_folder(again.adapter) == digest_folder(trained.adapter)


def test_predict_takes_bytes_and_base64_and_no_path(trained: Workspace, picture_of: Any) -> None:
    loaded = artifact.load(trained.adapter, trained.root)
    contents = [picture_of(label, 500 + number) for number, label in enumerate(LABELS)]
    by_bytes = artifact.predict(loaded, [{"image": content} for content in contents])
    by_text = artifact.predict(loaded, [{"image": base64.b64encode(content).decode()} for content in contents])
    assert by_bytes == by_text
    assert [set(answer) for answer in by_bytes] == [{"label", "score", "scores"}] * 3
    with pytest.raises(DataError, match="row 2: image: expected a picture in base64"):
        artifact.predict(loaded, [{"image": contents[0]}, {"image": "images/1.png"}])


def graft_exits(code: int, workspace: Workspace, *arguments: str) -> None:
    """Run ``graft -C PROJECT ...`` in this process and check its exit code."""
    import graft.cli

    with pytest.raises(SystemExit, match=f"^{code}$"):
        graft.cli.main(["-C", str(workspace.root), *arguments])


def test_graft_predict_finds_pictures_beside_the_rows(
    trained: Workspace, tmp_path: Path, picture_of: Any, capsys: Any
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    contents = [picture_of(label, 700) for label in LABELS]
    for number, content in enumerate(contents):
        (tmp_path / "in" / f"{number}.png").write_bytes(content)
    write_rows(tmp_path / "rows.jsonl", [{"image": f"in/{number}.png"} for number in range(3)])
    pq.write_table(pa.table({"image": contents}), tmp_path / "rows.parquet")
    found = []
    for name in ("rows.jsonl", "rows.parquet"):
        graft_exits(0, trained, "predict", "--file", str(tmp_path / name))
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [row["image"] for row in found[0]] == [f"in/{number}.png" for number in range(3)]
    assert [row["image"] for row in found[1]] == [f"sha256:{digest_bytes(content)}" for content in contents]
    assert [row["predicted_scores"] for row in found[0]] == [row["predicted_scores"] for row in found[1]]
    write_rows(tmp_path / "rows.jsonl", [{"image": "in/0.png"}, {"image": "../secret.png"}])
    graft_exits(2, trained, "predict", "--file", str(tmp_path / "rows.jsonl"))
    assert "rows.jsonl:2: image: expected the path of a picture in the folder of its file" in capsys.readouterr().err


# -- register, serve


@pytest.fixture(scope="module")
def served(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder as MLflow keeps it, made from the registered adapter."""
    from graft.registration import input_example
    from graft.tracking.models import Contents, build

    loaded = params.load(trained.params)
    example = input_example(trained, loaded.task, _pinned(trained), loaded.base)
    answers = artifact.predict(artifact.load(trained.adapter, trained.root), [example])
    folder = tmp_path_factory.mktemp("served") / "model"
    contents = Contents(
        adapter=trained.adapter,
        digest=digest_folder(trained.adapter),
        task="image_classification",
        columns={"image": ("image", True)},
        example=[example],
        answers=answers,
        metadata={},
    )
    build(folder, contents)
    return folder


def _pinned(workspace: Workspace) -> Any:
    from graft.base import locked

    return locked(workspace, params.load(workspace.params).base)


@pytest.mark.slow
def test_the_reload_proof_holds_for_pictures(trained: Workspace, tmp_path: Path) -> None:
    own = Workspace(tmp_path / "own")
    shutil.copytree(trained.root, own.root)
    stages.run("register", own)
    proof = read_json(own.package / "proof.json")
    assert (proof["passed"], proof["reload_difference"]) == (True, 0.0)


@pytest.mark.slow
def test_the_served_model_takes_bytes_base64_and_json(
    served: Path, trained: Workspace, tmp_path: Path, picture_of: Any, monkeypatch: Any
) -> None:
    import mlflow
    import pandas as pd

    monkeypatch.setenv("GRAFT_BASES", str(trained.root))
    monkeypatch.setattr(sys, "path", list(sys.path))  # loading a model puts its code there
    contents = [picture_of(label, 900) for label in LABELS]
    texts = [base64.b64encode(content).decode() for content in contents]
    expected = artifact.predict(artifact.load(trained.adapter, trained.root), [{"image": one} for one in contents])
    model = mlflow.pyfunc.load_model(str(served))
    for values in (contents, texts):
        answers = model.predict(pd.DataFrame({"image": values}))
        assert answers.to_dict(orient="records") == expected
    (tmp_path / "rows.json").write_text(json.dumps({"dataframe_records": [{"image": text} for text in texts]}))
    (tmp_path / "rows.csv").write_text("image\n" + "".join(f"{text}\n" for text in texts))
    for kind in ("json", "csv"):
        command = f"-m mlflow models predict -m {served} --env-manager local -i rows.{kind} -t {kind} -o out.json"
        subprocess.run([sys.executable, *command.split()], cwd=tmp_path, check=True, capture_output=True)
        found = json.loads((tmp_path / "out.json").read_text())["predictions"]
        assert [row["label"] for row in found] == [row["label"] for row in expected]
        assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected])
