"""The fault table: whatever happens to a training, the adapter that comes out is that of the undisturbed one.

What is damaged, full, killed or refused here is real: files, a file system, signals, processes, torch's own errors.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graft import params, stages
from graft.artifact import planned_identity
from graft.errors import Interrupted, ResourceMissing, TrainingDiverged
from graft.identity import digest_folder, digest_json
from graft.training.batching import Plan
from graft.training.checkpoints import Checkpoint, Checkpoints
from graft.training.record import Record, lines
from graft.training.signals import Stop
from graft.workspace import Workspace, read_json
from tests.conftest import toy_rows, validated, write_rows
from tests.training.conftest import holding

Make = Callable[..., Any]
SETTINGS = {"dropout": 0.2, "checkpoint_every_steps": 2, "evaluate_every_epochs": 0.5, "epochs": 2}
"""Twelve steps, scored and saved often."""


class KilledError(Exception):
    """Ends a training at once; the loop has no handler for it, so what lies on the disk is what SIGKILL leaves."""


class Doing(Record):
    """A record that does something after the lines of a step were added."""

    def __init__(self, path: Path, after_step: int, step: int, act: Callable[[], None]) -> None:
        super().__init__(path, after_step)
        self._at, self._act = step, act

    def add(self, line: dict[str, Any]) -> None:
        super().add(line)
        if line["step"] == self._at and "loss" in line:
            self._act()


def killed() -> None:
    raise KilledError("at once")


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def copied(inputs: Any) -> dict[str, Any]:
    return {name: one.detach().clone() for name, one in inputs.model.named_parameters() if one.requires_grad}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def run(
    inputs: Any,
    folder: Path,
    *,
    at: int = 0,
    act: Callable[[], None] = killed,
    store: type[Checkpoints] = Checkpoints,
    places: Path | None = None,
    stop: Stop | None = None,
) -> Any:
    """Train in ``folder``; do something after step ``at``."""
    from graft.training.loop import fit

    record = folder / "metrics.jsonl"
    checkpoints = store(places or folder / "checkpoints", "key", record)
    return fit(inputs, checkpoints, lambda step: Doing(record, step, at, act), stop or Stop())


def curves(folder: Path) -> list[dict[str, Any]]:
    timed = ("tokens_per_second", "mfu", "device_utilisation", "memory_bytes", "seconds")
    found = lines(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in timed} for line in found]


# -- a checkpoint that is not what it was

FILES = ("weights", "exp_avg", "exp_avg_sq", "step", "best", "method")
HARMS: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": lambda path: path.write_bytes(bytes([(content := path.read_bytes())[0] ^ 1]) + content[1:]),
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the undisturbed and the killed training left, made once for all kinds of damage."""
    return {}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [*(f"{name}.safetensors" for name in FILES), "state.json"])
def test_damaged_file_of_a_checkpoint(
    make_inputs: Make,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    told: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    file: str,
    harm: str,
) -> None:
    if not told:
        whole = make_inputs(**SETTINGS)
        told["folder"] = tmp_path_factory.mktemp("killed")
        run(whole, tmp_path / "whole")
        told["weights"], told["curves"] = copied(whole), curves(tmp_path / "whole")
        with pytest.raises(KilledError, match="at once"):
            run(make_inputs(**SETTINGS), told["folder"], at=9)
    shutil.copytree(told["folder"], tmp_path / "parts")
    newest = tmp_path / "parts" / "checkpoints" / "step-00000008"
    assert {path.name for path in newest.iterdir()} == {*(f"{name}.safetensors" for name in FILES), "state.json"}
    HARMS[harm](newest / file)
    rest = make_inputs(**SETTINGS)
    assert run(rest, tmp_path / "parts").resumed_from_step == 6
    assert "warning: checkpoint step-00000008 skipped: " in capsys.readouterr().out
    assert equal(copied(rest), told["weights"])
    assert curves(tmp_path / "parts") == told["curves"]


# -- a checkpoint of another training


def checkpoints_of(workspace: Workspace) -> Path:
    loaded = params.load(workspace.params)
    identity = planned_identity(workspace, loaded.task, loaded.base, loaded.adapter, loaded.training)
    return workspace.checkpoints / digest_json(identity | {"device": "cpu"})[:32]


@pytest.fixture
def of_another(make_tokenized: Callable[..., Workspace], tmp_path: Path) -> Callable[[str], Workspace]:
    """A project whose data, seed, settings or base differ from those of the others."""

    def make(what: str) -> Workspace:
        overrides = {"seed": {"training.seed": 8}, "params": {"training.weight_decay": 0.5}}.get(what, {})
        workspace = make_tokenized(tmp_path / what, **overrides)
        if what == "data":
            write_rows(workspace.data / "train" / "part-0000.jsonl", toy_rows(60, seed=11))
        if what == "base":
            from graft.base import lock

            config = workspace.root / "base" / "config.json"
            config.write_text(config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-11'))
            lock(workspace, params.load(workspace.params).base)
        validated(workspace)
        stages.run("tokenize", workspace)
        return workspace

    return make


@pytest.mark.slow
@pytest.mark.parametrize("what", ["data", "seed", "params", "base"])
def test_foreign_checkpoint(
    of_another: Callable[[str], Workspace],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
) -> None:
    from graft.training import stage

    first, other = of_another("first"), of_another(what)
    stages.run("train", other)
    undisturbed = digest_folder(other.adapter)
    shutil.rmtree(other.adapter)
    with monkeypatch.context() as patched:
        patched.setattr(stage, "Record", lambda path, step: Doing(path, step, 12, killed))
        with pytest.raises(KilledError, match="at once"):
            stages.run("train", first)
    assert checkpoints_of(first) != checkpoints_of(other)
    shutil.copytree(checkpoints_of(first), checkpoints_of(other))
    capsys.readouterr()
    stages.run("train", other)
    assert "checkpoint step-00000010 skipped: it belongs to another training" in capsys.readouterr().out
    assert digest_folder(other.adapter) == undisturbed


# -- a full disk


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Make ``folder`` a real file system without room; yield what makes room."""
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        filler = folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield filler.unlink
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def limited_files(folder: Path) -> Iterator[Callable[[], None]]:
    """Let no file grow beyond 1500 bytes, less than the smallest weights; yield what lifts the limit."""
    resource = pytest.importorskip("resource")
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("full", [full_disk, limited_files])
def test_disk_full_while_saving(
    make_inputs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], full: Callable[..., Any]
) -> None:
    whole, disturbed = make_inputs(**SETTINGS), make_inputs(**SETTINGS)
    run(whole, tmp_path / "whole")
    capsys.readouterr()
    with full(tmp_path / "disk") as make_room:
        places = tmp_path / "disk" / "checkpoints"
        outcome = run(disturbed, tmp_path / "disturbed", at=7, act=make_room, places=places)
        assert sorted(path.name for path in places.iterdir()) == ["step-00000008", "step-00000010"]
    [said] = [line for line in capsys.readouterr().out.splitlines() if "warning: checkpoint" in line]
    assert f"checkpoint of step 2 not written to {places}: " in said
    assert ("No space left on device" if full is full_disk else "File too large") in said
    assert outcome.checkpoints.failed in (2, 3)  # that of step 6 may find the room that step 7 makes
    assert outcome.checkpoints.written_step == 10
    assert equal(copied(disturbed), copied(whole))
    assert curves(tmp_path / "disturbed") == curves(tmp_path / "whole")


def test_signal_on_a_full_disk_says_what_is_lost(make_inputs: Make, tmp_path: Path) -> None:
    whole, rest = make_inputs(**SETTINGS), make_inputs(**SETTINGS)
    run(whole, tmp_path / "whole")

    class Full(Checkpoints):
        def save(self, checkpoint: Checkpoint) -> None:
            if checkpoint.step > 4:
                raise OSError(28, "No space left on device")
            super().save(checkpoint)

    with (
        Stop() as stop,
        pytest.raises(Interrupted, match=r"resumes, from an earlier step: no checkpoint of step 7 was written"),
    ):
        run(make_inputs(**SETTINGS), tmp_path / "parts", at=7, act=terminated, store=Full, stop=stop)
    assert run(rest, tmp_path / "parts").resumed_from_step == 4
    assert equal(copied(rest), copied(whole))


# -- signals


@pytest.mark.parametrize("when", ["before", "after"])
def test_signal_while_a_checkpoint_is_written(make_inputs: Make, tmp_path: Path, when: str) -> None:
    whole, rest = make_inputs(**SETTINGS), make_inputs(**SETTINGS)
    run(whole, tmp_path / "whole")

    class Signalling(Checkpoints):
        def save(self, checkpoint: Checkpoint) -> None:
            if checkpoint.step == 4 and when == "before":
                terminated()
            super().save(checkpoint)
            if checkpoint.step == 4 and when == "after":
                terminated()

    with Stop() as stop, pytest.raises(Interrupted, match=r"stopped by SIGTERM after step \d+ of 12; the same command"):
        run(make_inputs(**SETTINGS), tmp_path / "parts", store=Signalling, stop=stop)
    assert run(rest, tmp_path / "parts").resumed_from_step >= 4
    assert equal(copied(rest), copied(whole))
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


ENDING = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import peft, safetensors.torch, scipy.stats, sklearn.metrics, torch, transformers.models.bert.modeling_bert
import graft.training.stage
from graft import stages
from graft.identity import digest_folder
from graft.workspace import Workspace

workspace, number, count = Workspace(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])

def begun():
    child = os.fork()
    if child:
        return child
    try:
        stages.run("train", workspace)
    except BaseException as error:
        os._exit(getattr(error, "exit_code", 1))
    os._exit(0)

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def emptied():
    found = digest_folder(workspace.adapter)
    shutil.rmtree(workspace.artifacts / "adapter")
    shutil.rmtree(workspace.store)
    return found

started = time.monotonic()
assert ended(begun()) == 0
seconds = time.monotonic() - started
undisturbed, source, reached, finished = emptied(), random.Random(count), 0, 0
while reached < count:
    child = begun()
    time.sleep(source.uniform(0, seconds))
    os.kill(child, number)
    code = ended(child)
    assert code in (0, 75, -number), code
    reached += code != 0
    if code == 0:
        finished += 1
        assert emptied() == undisturbed
assert ended(begun()) == 0
assert emptied() == undisturbed
print(f"{reached} ended, {finished + 1} finished")
"""


def end_at_random(workspace: Workspace, number: int, count: int) -> None:
    """End the train stage ``count`` times by a signal at a random moment, and run it again each time."""
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(workspace.root), str(int(number)), str(count)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        cwd=workspace.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert f"{count} ended" in done.stdout


@pytest.fixture
def often_saved(make_tokenized: Callable[..., Workspace], tmp_path: Path) -> Workspace:
    return make_tokenized(tmp_path / "project", training={"checkpoint_every_steps": 1, "epochs": 3})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_end_at_five_random_moments(often_saved: Workspace, number: int) -> None:
    end_at_random(often_saved, number, 5)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_end_at_fifty_random_moments(often_saved: Workspace, number: int) -> None:
    end_at_random(often_saved, number, 50)


# -- a loss that is no number


def poisoned(inputs: Any) -> tuple[Any, int]:
    """Make one training row's loss NaN, by a word that it alone has; return its number."""
    words = [set(row["input_ids"]) for row in (*inputs.train_rows, *inputs.validation_rows)]
    word, row = next(
        (word, number)
        for number in range(len(inputs.train_rows))
        for word in sorted(words[number])
        if sum(word in one for one in words) == 1
    )
    inputs.model.get_input_embeddings().weight.data[word] = float("nan")
    return inputs, row


ONE_STEP_IN_SIX = {"max_gradient_norm": 0.5, "weight_decay": 0.1, "keep": "last"}


def with_a_rare_word(make_inputs: Make, **settings: Any) -> tuple[Any, int]:
    inputs = make_inputs(**{**SETTINGS, **settings})
    rows = [dict(row) for row in inputs.train_rows]
    rows[3]["input_ids"] = [*rows[3]["input_ids"][:-2], 4, rows[3]["input_ids"][-1]]  # [MASK], which no text has
    return poisoned(replace(inputs, train_rows=rows))


def test_step_without_a_finite_loss_moves_nothing(
    make_inputs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Second route: clip_grad_norm_ and AdamW in its plain form, which leave the same steps out."""
    import torch
    from torch.nn.functional import cross_entropy

    settings = {"dropout": 0.0, **ONE_STEP_IN_SIX}
    (ours, row), (plain, _) = (with_a_rare_word(make_inputs, **settings) for _ in range(2))
    outcome = run(ours, tmp_path)
    plan = Plan([len(one["input_ids"]) for one in plain.train_rows], plain.config)
    steps = [step for step in range(1, plan.steps + 1) if row in plan.rows(step)]
    assert len(steps) == 2
    weights = {name: one for name, one in plain.model.named_parameters() if one.requires_grad}
    groups = [
        {"params": [one for one in weights.values() if (one.ndim > 1) is decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, fused=False, foreach=False)
    plain.model.train()
    for step in range(1, plan.steps + 1):
        batch = plain.task.collate([plain.train_rows[one] for one in plan.rows(step)], plain.pad_token_id, plain.state)
        labels = batch.pop("labels")
        cross_entropy(plain.model(**batch).logits, labels).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), 0.5)
        assert bool(norm.isfinite()) == (step not in steps)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate(step)
        if step not in steps:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert all(torch.allclose(copied(ours)[name], one, atol=1e-4) for name, one in weights.items())
    assert (outcome.progress.skipped_steps, outcome.progress.skipped_in_row) == (2, 0)
    recorded = {line["step"]: line for line in curves(tmp_path) if "loss" in line}
    assert [step for step, line in recorded.items() if line["loss"] is None] == steps
    assert recorded[12]["skipped_steps"] == 2
    said = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert len(said) == 2
    assert f"step {steps[0]} skipped: the loss is nan, learning rate 0.0" in said[0]
    assert f"{plain.train_rows[row]['row']}" in said[0]
    assert said[0].endswith("1 of 3 in a row")


@pytest.mark.parametrize("at", [2, 5, 8, 11])
def test_skipped_steps_are_remembered_across_a_kill(make_inputs: Make, tmp_path: Path, at: int) -> None:
    (whole, _), (parts, _), (rest, _) = (with_a_rare_word(make_inputs) for _ in range(3))
    run(whole, tmp_path / "whole")
    with pytest.raises(KilledError, match="at once"):
        run(parts, tmp_path / "parts", at=at)
    assert run(rest, tmp_path / "parts").progress.skipped_steps == 2
    assert equal(copied(rest), copied(whole))
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_infinite_loss_with_a_finite_gradient_moves_nothing_either(make_inputs: Make, tmp_path: Path) -> None:
    inputs = make_inputs(**{**SETTINGS, "max_skipped_steps": 12, "keep": "last"})

    class Infinite(type(inputs.task)):  # type: ignore[misc]
        def loss(self, *given: Any) -> tuple[Any, int]:
            value, count = super().loss(*given)
            return value + float("inf"), count

    before = copied(inputs)
    outcome = run(replace(inputs, task=Infinite()), tmp_path)
    assert outcome.progress.skipped_steps == outcome.progress.skipped_in_row == 12
    assert all(line["gradient_norm"] > 0 for line in curves(tmp_path) if "loss" in line)
    assert equal(copied(inputs), before)


@pytest.mark.parametrize(("most", "step"), [(0, 1), (2, 3)])
def test_skipped_steps_in_a_row_end_training(make_inputs: Make, tmp_path: Path, most: int, step: int) -> None:
    def inputs() -> Any:
        made = make_inputs(**SETTINGS, max_skipped_steps=most)
        made.model.get_input_embeddings().weight.data[:] = float("nan")
        return made

    with pytest.raises(TrainingDiverged, match=rf"the loss is nan at step {step} of 12") as caught:
        run(inputs(), tmp_path)
    assert (f"after {most} skipped steps in a row (training.max_skipped_steps)" in str(caught.value)) == (most > 0)
    assert "learning rate 0.0" in str(caught.value)
    assert all(place.startswith("data/train/part-0000.jsonl:") for place in caught.value.problems)
    if most:  # also where they are on both sides of a kill
        with pytest.raises(TrainingDiverged, match=rf"at step {step} of 12"):
            run(inputs(), tmp_path)


# -- memory that is full


def test_step_that_memory_does_not_hold_is_done_in_smaller_pieces(
    make_inputs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = make_inputs(**SETTINGS, micro_batch_rows=2)
    run(small, tmp_path / "small")
    inputs, passes = holding(make_inputs(**SETTINGS), 3)
    outcome = run(inputs, tmp_path / "full")
    assert outcome.progress.halvings == 2
    assert passes[:3] == [8, 4, 2]
    assert equal(copied(inputs), copied(small))
    said = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert [line.partition(" (")[0] for line in said] == [
        f"train: out of memory at step 1 with {rows} rows at once" for rows in (8, 4)
    ]
    assert "Tried to allocate 2.00 GiB.); going on with half as many" in said[0]


def test_smaller_pieces_are_remembered_across_a_kill(make_inputs: Make, tmp_path: Path) -> None:
    (whole, _), (parts, _), (rest, passes) = (holding(make_inputs(**SETTINGS), 3) for _ in range(3))
    run(whole, tmp_path / "whole")
    with pytest.raises(KilledError, match="at once"):
        run(parts, tmp_path / "parts", at=5)
    run(rest, tmp_path / "parts")
    assert max(passes) == 2
    assert equal(copied(rest), copied(whole))


def test_single_row_that_memory_does_not_hold_is_named(make_inputs: Make, tmp_path: Path) -> None:
    inputs, passes = holding(make_inputs(**SETTINGS), 0)
    row = Plan([len(one["input_ids"]) for one in inputs.train_rows], inputs.config).rows(1)[0]
    tokens = len(inputs.train_rows[row]["input_ids"])
    with pytest.raises(
        ResourceMissing,
        match=rf"row {inputs.train_rows[row]['row']} alone \({tokens} tokens, step 1\).*max_length_tokens",
    ):
        run(inputs, tmp_path)
    assert passes == [8, 4, 2, 1]


def test_other_errors_are_no_lack_of_memory(make_inputs: Make, tmp_path: Path) -> None:
    inputs = make_inputs(**SETTINGS)

    def refuse(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    inputs.model.get_base_model().register_forward_pre_hook(refuse)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(inputs, tmp_path)


LIMITED = """
import resource, sys, tempfile
from dataclasses import replace
from pathlib import Path
import scipy.stats, sklearn.metrics  # libraries cannot be loaded under the limit
import torch
from graft.stages import main
from graft.training import stage
from graft.training.checkpoints import Checkpoints
from graft.training.record import Record

fit, rows = stage.fit, int(sys.argv[1])

def peak():
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return int(found.split()[1]) * 1024

def tried(inputs, stop, rows):
    '''Return the most address space that there was, up to the end of a training that nobody keeps.'''
    before = [(one, one.detach().clone()) for one in inputs.model.parameters() if one.requires_grad]
    config = inputs.config.model_copy(update={"micro_batch_rows": rows})
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        opened = lambda step: Record(place / "metrics.jsonl", step)
        fit(replace(inputs, config=config), Checkpoints(place / "checkpoints", "key"), opened, stop)
    with torch.no_grad():
        for one, value in before:
            one.copy_(value)
    return peak()

def limited(inputs, checkpoints, opened, stop, profiler):
    tried(inputs, stop, rows // 2)
    half, whole = (tried(inputs, stop, each) for each in (rows // 2, rows))
    print("peaks", half, whole, flush=True)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((half + whole) // 2, before[1]))
    try:
        return fit(inputs, checkpoints, opened, stop, profiler)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

stage.fit = limited
sys.exit(main(["train"]))
"""
"""Trains with so many rows, and with half as many at a time, so that all products are compiled and what both take is
known; and then again, where there is room for what lies between the two."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
"""Glibc hands freed memory back at once, and has one heap for all threads."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS ends allocations on Linux alone")
def test_allocation_that_the_system_refuses(make_tokenized: Callable[..., Workspace], tmp_path: Path) -> None:
    """The CPU's own allocator, under a real limit; the same pieces asked for beforehand give the same adapter."""
    from safetensors.torch import load_file

    def made(name: str, rows: int | None) -> Workspace:
        training = {"batch_rows": 4096, "micro_batch_rows": rows, "epochs": 1, "keep": "last"}
        workspace = make_tokenized(tmp_path / name, training=training)
        write_rows(workspace.data / "train" / "part-0000.jsonl", toy_rows(4096, seed=5))
        validated(workspace)
        stages.run("tokenize", workspace)
        return workspace

    limited, small = made("limited", None), made("small", 2048)
    source = {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "4096"],
        cwd=limited.root,
        env={**os.environ, **source, **ALLOCATOR},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("out of memory") == 1, done.stdout
    assert "out of memory at step 1 with 4096 rows at once" in done.stdout
    assert "can't allocate memory" in done.stdout
    assert read_json(limited.training / "summary.json")["memory_halvings"] == 1
    stages.run("train", small)
    one, other = (load_file(each.adapter / "adapter_model.safetensors") for each in (limited, small))
    assert one.keys() == other.keys()
    assert all(other[name].equal(value) for name, value in one.items())


# -- an end before the last step

WORSENING = {"learning_rate": 0.03, "schedule": "constant", "epochs": 6, "evaluate_every_epochs": 0.5, "keep": "last"}


def test_patience_ends_training_after_scorings_without_a_better_one(make_inputs: Make, tmp_path: Path) -> None:
    whole, patient = make_inputs(**WORSENING), make_inputs(**WORSENING, patience=2)
    run(whole, tmp_path / "whole")
    outcome = run(patient, tmp_path / "patient")
    scored = [line for line in curves(tmp_path / "whole") if "validation_accuracy" in line]
    best = max(range(len(scored)), key=lambda number: (scored[number]["validation_accuracy"], -number))
    assert outcome.progress.best_step == scored[best]["step"]
    assert outcome.progress.step == scored[best + 2]["step"] < 36
    assert curves(tmp_path / "patient") == [
        line for line in curves(tmp_path / "whole") if line["step"] <= outcome.progress.step
    ]


def test_patience_is_remembered_across_a_kill(make_inputs: Make, tmp_path: Path) -> None:
    settings = {**WORSENING, "patience": 3, "checkpoint_every_steps": 1}
    whole, rest = make_inputs(**settings), make_inputs(**settings)
    last = run(whole, tmp_path / "whole").progress.step
    with pytest.raises(KilledError, match="at once"):
        run(make_inputs(**settings), tmp_path / "parts", at=last)
    assert run(rest, tmp_path / "parts").progress.step == last
    assert equal(copied(rest), copied(whole))
