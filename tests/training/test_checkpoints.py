from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.identity import digest_json
from graft.training.checkpoints import Checkpoint, Checkpoints, forget_leftovers


def checkpoint(step: int) -> Checkpoint:
    import torch

    tensors = {name: {"a": torch.full((3, 2), float(step)), "b": torch.arange(4.0)} for name in ("weights", "exp_avg")}
    return Checkpoint(step, {**tensors, "best": {}}, {"tokens": 10 * step, "best_value": None})


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    store = Checkpoints(tmp_path / "key", "key")
    for step in (50, 100):
        store.save(checkpoint(step))
    return store


def test_latest_returns_what_was_saved(store: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    found = store.latest()
    assert found is not None
    assert found.step == 100
    assert found.facts == {"tokens": 1000, "best_value": None}
    assert found.tensors["weights"]["a"].tolist() == [[100.0, 100.0]] * 3
    assert found.tensors["best"] == {}
    assert capsys.readouterr().out == ""


def test_two_are_kept(store: Checkpoints) -> None:
    store.save(checkpoint(150))
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000100", "step-00000150"]


def test_saving_a_step_again_replaces_it(store: Checkpoints) -> None:
    store.save(checkpoint(100))
    found = store.latest()
    assert found is not None
    assert found.step == 100


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _edit(path: Path, **values: object) -> None:
    state = {**json.loads(path.read_text()), **values}
    state["digest"] = digest_json({name: value for name, value in state.items() if name != "digest"})
    path.write_text(json.dumps(state))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped bit in weights": (lambda at: _flip(at / "weights.safetensors"), "weights.safetensors is damaged"),
    "flipped bit in moments": (lambda at: _flip(at / "exp_avg.safetensors"), "exp_avg.safetensors is damaged"),
    "truncated": (lambda at: (at / "weights.safetensors").write_bytes(b"\x08"), "weights.safetensors is damaged"),
    "missing moments": (lambda at: (at / "exp_avg.safetensors").unlink(), "exp_avg.safetensors is damaged or missing"),
    "another fact": (
        lambda at: _replace(at / "state.json", '"tokens": 1000', '"tokens": 1001'),
        "state.json is damaged",
    ),
    "no state": (lambda at: (at / "state.json").unlink(), "state.json cannot be read"),
    "empty state": (lambda at: (at / "state.json").write_text(""), "state.json cannot be read"),
    "half a state": (lambda at: (at / "state.json").write_text('{"format": 2}'), "state.json is damaged"),
    "a list": (lambda at: (at / "state.json").write_text("[]"), "state.json is damaged"),
    "not UTF-8": (lambda at: (at / "state.json").write_bytes(b"\xff\xfe"), "state.json cannot be read"),
    "another training": (lambda at: _edit(at / "state.json", key="other"), "it belongs to another training"),
    "another format": (lambda at: _edit(at / "state.json", format=1), "it belongs to another training"),
    "empty folder": (lambda at: [path.unlink() for path in at.iterdir()] and None, "state.json cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_skipped_with_a_warning(
    store: Checkpoints, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    harm, reason = DAMAGE[damage]
    harm(store.folder / "step-00000100")
    found = store.latest()
    assert found is not None
    assert found.step == 50
    assert f"warning: checkpoint step-00000100 skipped: {reason}" in capsys.readouterr().out


def test_nothing_usable_is_none(store: Checkpoints, tmp_path: Path) -> None:
    for place in store.folder.iterdir():
        shutil.rmtree(place)
    assert store.latest() is None
    assert Checkpoints(tmp_path / "absent", "key").latest() is None


def test_unfinished_folder_is_no_checkpoint_and_is_forgotten(store: Checkpoints) -> None:
    (store.folder / "step-00000100").rename(store.folder / ".step-00000150.new")
    found = store.latest()
    assert found is not None
    assert found.step == 50
    assert [path.name for path in forget_leftovers(store.folder)] == [".step-00000150.new"]
    assert [path.name for path in store.folder.iterdir()] == ["step-00000050"]


def test_remove_leaves_nothing(store: Checkpoints) -> None:
    store.remove()
    assert not store.folder.exists()


def test_each_flipped_bit_of_the_state_is_seen(store: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    state = store.folder / "step-00000100" / "state.json"
    content = state.read_bytes()
    for at in range(len(content)):
        state.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        found = store.latest()
        assert found is not None
        assert found.step == 50, capsys.readouterr().out
    state.write_bytes(content)
    found = store.latest()
    assert found is not None
    assert found.step == 100


@pytest.mark.parametrize(("steps", "found"), [(range(1, 101), 100), (range(1, 100), 50), (range(1, 50), None)])
def test_checkpoint_ahead_of_the_record_does_not_count(
    store: Checkpoints, capsys: pytest.CaptureFixture[str], tmp_path: Path, steps: range, found: int | None
) -> None:
    record = tmp_path / "metrics.jsonl"
    record.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in steps) + '{"step": 101, "lo')
    latest = Checkpoints(store.folder, store.key, record).latest()
    assert (latest.step if latest else None) == found
    skipped = "step-00000100 skipped: metrics.jsonl ends before its step" in capsys.readouterr().out
    assert skipped == (found != 100)


def test_what_cannot_be_written_leaves_nothing_and_the_ones_before(store: Checkpoints) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match=r"File too large"):
            store.save(checkpoint(150))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000050", "step-00000100"]
    store.save(checkpoint(150))
    found = store.latest()
    assert found is not None
    assert found.step == 150
