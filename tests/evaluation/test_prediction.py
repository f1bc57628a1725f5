"""Prediction tables on disk, and the progress lines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from graft.errors import DataError
from graft.evaluation import prediction
from graft.privacy.section import PrivacyConfig


def table() -> dict[str, np.ndarray]:
    return {
        "row": np.array(["data/test/a.jsonl:1", "data/test/a.jsonl:2", "data/test/é.jsonl:1"], object),
        "id": np.array(["x", None, "z"], object),
        "reference": np.array([2, 0, 1], np.int32),
        "prediction": np.array([2, 1, 1], np.int32),
        "probabilities": np.array([[0.1, 0.2, 0.7], [0.3, 0.6, 0.1], [0.0, 1.0, 0.0]], np.float32),
        "tags": np.array([["B", "O"], ["O"], []], object),
    }


def test_table_survives_parquet_with_its_types(tmp_path: Path) -> None:
    prediction.write(tmp_path / "deep" / "t.parquet", table())
    found = prediction.read(tmp_path / "deep" / "t.parquet")
    assert list(found) == list(table())
    for name, column in table().items():
        if name == "tags":
            assert [list(one) for one in found[name]] == column.tolist()
            continue
        assert found[name].dtype == column.dtype, name
        np.testing.assert_array_equal(found[name], column)


def test_table_without_ids_survives(tmp_path: Path) -> None:
    prediction.write(tmp_path / "t.parquet", table() | {"id": np.array([None, None, None], object)})
    assert prediction.read(tmp_path / "t.parquet")["id"].tolist() == [None, None, None]


def test_other_tools_read_the_list_column(tmp_path: Path) -> None:
    prediction.write(tmp_path / "t.parquet", table())
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert rows[1]["probabilities"] == pytest.approx([0.3, 0.6, 0.1])
    assert rows[1]["id"] is None


def test_texts_of_a_table_have_placeholders_by_row_and_all_else_stays() -> None:
    ann, bob = "ann" + "@example.org", "bob" + "@example.org"
    texts = {
        "id": np.array([ann, None, "z"], object),
        "prediction": np.array([f"to {bob}", "nothing", f"{ann}, {bob}"], object),
        "references": np.array([[ann, bob], ["x"], [bob]], object),
        "tokens": np.array([["+1", "212", "555", "0123"], [], ["x", bob]], object),
    }
    given = {**table(), **texts}
    found = prediction.without_private(given, PrivacyConfig(), ["tokens"])
    assert found["prediction"].tolist() == ["to <EMAIL_2>", "nothing", "<EMAIL_1>, <EMAIL_2>"]
    assert found["references"].tolist() == [["<EMAIL_1>", "<EMAIL_2>"], ["x"], ["<EMAIL_2>"]]
    assert found["tokens"].tolist() == [["<PHONE_1>"] * 4, [], ["x", "<EMAIL_2>"]]
    assert found["id"].tolist() == ["<EMAIL_1>", None, "z"]
    for name in table():
        if name not in ("prediction", "id"):
            assert found[name].tolist() == given[name].tolist(), name
    same = prediction.without_private(given, PrivacyConfig(kinds=()))
    assert all(same[name].tolist() == column.tolist() for name, column in given.items())


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prediction.write(tmp_path / name, table())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.parquet: no such prediction table; run `graft stage evaluate`"):
        prediction.read(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"t\.parquet: not a prediction table"):
        prediction.read(tmp_path / "t.parquet")


def test_progress_prints_the_last_line_always_and_others_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    tell = prediction.progress("adapter", 300)
    for done in (100, 200, 300):
        tell(done)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("adapter: 300/300 rows, ")


def test_progress_tells_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    prediction.progress("base", 400, every_seconds=0)(100)
    assert capsys.readouterr().out.startswith("base: 100/400 rows, ")


@pytest.mark.parametrize("batch_rows", [1, 64])
def test_metrics_over_all_rows_do_not_depend_on_how_many_are_scored_together(batch_rows: int) -> None:
    import pyarrow as pa
    import torch
    from sklearn.metrics import roc_auc_score

    from graft import tasks

    class Scored(type(tasks.get("text_classification"))):  # type: ignore[misc]
        def collate(self, rows: Any, _pad: int, _state: Any) -> Any:
            return {"scores": torch.tensor([row["score"] for row in rows])}

        def outputs(self, _config: Any, _model: Any, batch: Any) -> Any:
            return torch.stack([torch.zeros_like(batch["scores"]), batch["scores"]], dim=1)

    drawn = np.random.default_rng(0)
    labels, scores = drawn.integers(0, 2, 100), drawn.normal(size=100)
    rows = [
        {"row": str(number), "input_ids": [1], "label": str(label), "score": float(score + label * number / 50)}
        for number, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    task = Scored()
    loaded: Any = SimpleNamespace(
        model=None, task=task, config=None, state={"labels": ["0", "1"]}, processor=None, pad_token_id=0, device="cpu"
    )
    table = prediction.score(loaded, pa.Table.from_pylist(rows), batch_rows=batch_rows)
    expected = roc_auc_score(labels, [row["score"] for row in rows])
    assert task.metric("auroc").function(table) == pytest.approx(expected)
