"""Several processes that train one adapter: real ones, connected by gloo."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from graft.errors import DataError
from graft.identity import digest_folder
from graft.training.distributed import first_error, leave_error
from graft.workspace import Workspace, read_json

ROOT = Path(__file__).parents[2]
FORKS = """
import contextlib, json, os, sys
from dataclasses import replace
from pathlib import Path
import torch, peft, transformers.models.bert.modeling_bert, sklearn.metrics, scipy.stats
import torch.distributed as dist
from graft.training.checkpoints import Checkpoints
from graft.training.forward import efficient
from graft.training.loop import fit
from graft.training.ranks import Ranks
from graft.training.record import Record, Unwritten
from graft.training.sharding import shard
from graft.training.signals import Stop
from tests.conftest import toy_rows
from tests.training.conftest import inputs_on

base, place, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def train(name, number, size, sharded, is_efficient, ahead, rows, settings):
    folder = place / name
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=number, world_size=size)
    ranks = Ranks(number, size, sharded=sharded)
    inputs = inputs_on(base, toy_rows(60, 0), **settings)
    inputs = replace(inputs, train_rows=inputs.train_rows[:rows], ranks=ranks)
    if sharded:
        shard(inputs.model, "cpu", size)
    record = folder / "metrics.jsonl"
    with efficient(inputs) if is_efficient else contextlib.nullcontext():
        opened = lambda step: Unwritten() if number else Record(record, step)
        fit(inputs, Checkpoints(folder / "checkpoints", "key", record), opened, Stop(), ahead=ahead)
    trained = {key: one.detach() for key, one in inputs.model.named_parameters() if one.requires_grad}
    torch.save(trained, folder / f"weights-{number}.pt")
    if sharded:
        parts = [one for one in inputs.model.parameters() if hasattr(one, "to_local")]
        whole = sum(one.numel() for one in parts)
        assert parts and sum(one.to_local().numel() for one in parts) <= whole / size + len(parts) * 64

for name, case in cases.items():
    children = []
    for number in range(case["size"]):
        child = os.fork()
        if not child:
            try:
                train(name, number, **case)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), (name, codes)
"""
SETTINGS = {"epochs": 1, "evaluate_every_epochs": 0.5}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"micro_batch_rows": 3},
    "by_tokens": {"batch_tokens": 70, "micro_batch_tokens": 25},
    "few_rows": {"batch_rows": 3},
}
"""``few_rows``: one row fewer than four ranks, and steps of unequally many."""


def case(
    size: int,
    *,
    sharded: bool = False,
    is_efficient: bool = True,
    ahead: bool = False,
    rows: int = 45,
    **settings: Any,
) -> dict[str, Any]:
    ways = {"size": size, "sharded": sharded, "is_efficient": is_efficient, "ahead": ahead}
    return {**ways, "rows": rows, "settings": {**SETTINGS, **settings}}


def trained(base: Path, place: Path, cases: dict[str, dict[str, Any]]) -> None:
    """Train each case in processes that are forked from one, which has imported everything."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(base), str(place), json.dumps(cases)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def curves(folder: Path) -> list[dict[str, Any]]:
    timed = ("tokens_per_second", "memory_bytes", "seconds", "mfu", "device_utilisation", "padding_share")  # of a rank
    with (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        return [{name: one for name, one in json.loads(line).items() if name not in timed} for line in file]


def weights(folder: Path, number: int = 0) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = torch.load(folder / f"weights-{number}.pt")
    return found


@pytest.mark.slow
def test_curve_is_that_of_one_process(tiny_base: Path, tmp_path: Path) -> None:
    sizes = (1, 2, 4)
    cases = {f"{name}-{size}": case(size, **settings) for name, settings in LAYOUTS.items() for size in sizes}
    trained(tiny_base, tmp_path, cases)
    for name in LAYOUTS:
        alone = curves(tmp_path / f"{name}-1")
        assert len({line["step"] for line in alone}) >= 6
        for size in sizes[1:]:
            together = curves(tmp_path / f"{name}-{size}")
            assert [list(line) for line in together] == [list(line) for line in alone]
            for ours, theirs in zip(together, alone, strict=True):
                assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-5), (name, size)
            same = [weights(tmp_path / f"{name}-{size}", number) for number in range(size)]
            assert all(one[key].equal(same[0][key]) for one in same for key in one)


@pytest.mark.slow
def test_batches_made_ahead_change_no_bit(tiny_base: Path, tmp_path: Path) -> None:
    ways: dict[str, dict[str, Any]] = {"none": {}, "fsdp": {"sharded": True, "is_efficient": False}}
    settings = {"dropout": 0.2, "batch_rows": 5, "micro_batch_rows": 1, "rows": 20}
    cases = {
        f"{kind}-{ahead}": case(2, ahead=ahead, **way, **settings)
        for kind, way in ways.items()
        for ahead in (False, True)
    }
    trained(tiny_base, tmp_path, cases)
    for kind in ways:
        assert curves(tmp_path / f"{kind}-True") == curves(tmp_path / f"{kind}-False")
        for number in range(2):
            one, other = (weights(tmp_path / f"{kind}-{ahead}", number) for ahead in (False, True))
            assert one.keys() == other.keys()
            assert all(one[key].equal(other[key]) for key in one)


@pytest.mark.slow
def test_sharding_changes_no_bit_of_the_same_products(tiny_base: Path, tmp_path: Path) -> None:
    # Dropout too; a step of 5 rows in pieces of one gives ranks unequally many of them.
    settings = {"dropout": 0.2, "batch_rows": 5, "micro_batch_rows": 1, "rows": 20}
    cases = {
        f"{kind}-{size}": case(size, sharded=kind == "fsdp", is_efficient=False, **settings)
        for size in (2, 4)
        for kind in ("none", "fsdp")
    }
    packed = {f"packed-{kind}": case(2, sharded=kind == "fsdp", rows=20) for kind in ("none", "fsdp")}
    trained(tiny_base, tmp_path, cases | packed)
    for size in (2, 4):
        one, other = (weights(tmp_path / f"{kind}-{size}") for kind in ("none", "fsdp"))
        steps = [
            [
                line for line in curves(tmp_path / f"{kind}-{size}") if "loss" in line
            ]  # each rank scores all rows, or some
            for kind in ("none", "fsdp")
        ]
        assert steps[0] == steps[1]
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
    for ours, theirs in zip(*(curves(tmp_path / f"packed-{kind}") for kind in ("none", "fsdp")), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-5)


class Stage:
    """A train stage in a process of its own."""

    def __init__(self, workspace: Workspace) -> None:
        self._places = workspace.checkpoints
        self._before = {path.name for path in self._places.glob("*/step-*")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graft", "stage", "train"],
            cwd=workspace.root,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ranks(self) -> list[psutil.Process]:
        """Wait until a new checkpoint is there; return the ranks in their order."""
        while {path.name for path in self._places.glob("*/step-*")} <= self._before:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        found = psutil.Process(self.process.pid).children()
        return sorted(found, key=lambda one: int(one.environ()["RANK"]))

    def ended(self) -> tuple[int, str]:
        said, _ = self.process.communicate()
        return self.process.returncode, said


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_is_killed_the_adapter_is_the_same(make_tokenized: Callable[..., Workspace], tmp_path: Path) -> None:
    settings = {"processes": 2, "epochs": 20, "checkpoint_every_steps": 8, "evaluate_every_epochs": 10}
    workspace = make_tokenized(tmp_path / "project", training=settings)
    assert Stage(workspace).ended()[0] == 0
    undisturbed = digest_folder(workspace.adapter)
    assert read_json(workspace.adapter / "identity.json")["processes"] == 2
    shutil.rmtree(workspace.adapter)

    stage = Stage(workspace)  # the stage is asked to end
    ranks = stage.ranks()
    open_to = [one for process in (psutil.Process(stage.process.pid), *ranks) for one in process.net_connections()]
    assert {one.laddr.ip for one in open_to if one.status == psutil.CONN_LISTEN} <= {"127.0.0.1", "::1"}
    stage.process.terminate()
    code, said = stage.ended()
    assert code == 75, said
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    told = re.fullmatch(r"error: train: stopped by SIGTERM after step (\d+) of 160; the same command resumes", line)
    assert told, said
    assert gone(ranks)

    stage = Stage(workspace)  # the stage is killed: the ranks do not live on
    ranks = stage.ranks()
    stage.process.kill()
    assert gone(ranks)
    assert f"going on from the checkpoint of step {told[1]}\n" in stage.ended()[1]

    stage = Stage(workspace)  # a rank is killed: the same command goes on to the end
    ranks = stage.ranks()
    ranks[1].kill()
    code, said = stage.ended()
    assert code == 0, said
    assert "train: one of 2 processes was ended by SIGKILL; all start again from the newest checkpoint (1 of" in said
    assert said.count("train: going on from the checkpoint of step") == 2
    assert "Traceback" not in said
    assert gone(ranks)
    assert digest_folder(workspace.adapter) == undisturbed


@pytest.mark.slow
def test_error_of_all_ranks_is_said_once(make_tokenized: Callable[..., Workspace], tmp_path: Path) -> None:
    settings = {"processes": 2, "learning_rate": 1e30, "max_skipped_steps": 0, "schedule": "constant"}
    workspace = make_tokenized(tmp_path / "project", training=settings)
    code, said = Stage(workspace).ended()
    assert code == 5, said
    assert said.count("error: training.learning_rate: the loss is nan") == 1
    assert "Traceback" not in said
    assert read_json(workspace.failed / "train" / "report.json")["rows"]


def test_first_error_of_a_rank_is_raised_and_its_traceback_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_error(tmp_path, 0, RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"))
    assert first_error(tmp_path) is None
    try:
        raise KeyError("a bug")
    except KeyError as error:
        leave_error(tmp_path, 1, error)
    leave_error(tmp_path, 0, DataError("a row", problems=["a.jsonl:1"]))
    found = first_error(tmp_path)
    assert str(found) == "training: process 1 failed (KeyError); its traceback stands above"
    assert capsys.readouterr().err.rstrip().endswith("KeyError: 'a bug'")
    (tmp_path / "error-1.json").unlink()
    found = first_error(tmp_path)
    assert isinstance(found, DataError)
    assert (str(found), found.problems) == ("a row", ("a.jsonl:1",))
