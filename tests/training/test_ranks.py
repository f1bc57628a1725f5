"""Several processes that train one adapter: real ones, connected by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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

def train(name, number, size, sharded, is_efficient, rows, settings):
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
        fit(inputs, Checkpoints(folder / "checkpoints", "key", record), opened, Stop())
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
    size: int, *, sharded: bool = False, is_efficient: bool = True, rows: int = 45, **settings: Any
) -> dict[str, Any]:
    ways = {"size": size, "sharded": sharded, "is_efficient": is_efficient}
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
    timed = ("tokens_per_second", "memory_bytes", "seconds")
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
        assert curves(tmp_path / f"none-{size}") == curves(tmp_path / f"fsdp-{size}")
        assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    for ours, theirs in zip(*(curves(tmp_path / f"packed-{kind}") for kind in ("none", "fsdp")), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-5)
