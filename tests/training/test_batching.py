from __future__ import annotations

import random
from itertools import pairwise

import pytest

from graft.training import TrainingConfig
from graft.training.batching import Plan, epoch_batches, mixed_seed

LENGTHS = [min(512, int(random.Random(row).lognormvariate(3.5, 0.8)) + 2) for row in range(1003)]


def test_epoch_batches_hold_every_row_once() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=1, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(1003))
    assert sorted(map(len, batches)) == [1003 % 32, *[32] * (1003 // 32)]


def test_epoch_batches_depend_on_seed_and_epoch_alone() -> None:
    first = epoch_batches(LENGTHS, 32, seed=1, epoch=0)
    assert first == epoch_batches(LENGTHS, 32, seed=1, epoch=0)
    assert first != epoch_batches(LENGTHS, 32, seed=1, epoch=1)
    assert first != epoch_batches(LENGTHS, 32, seed=2, epoch=0)


def test_epoch_batches_pad_little_and_do_not_go_by_length() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=1, epoch=0)
    padded = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    in_order = [range(start, min(start + 32, 1003)) for start in range(0, 1003, 32)]
    unsorted = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in in_order)
    assert padded / sum(LENGTHS) < 1.15 < 1.8 < unsorted / sum(LENGTHS)
    longest = [max(LENGTHS[row] for row in batch) for batch in batches]
    rises = sum(later > earlier for earlier, later in pairwise(longest))
    assert len(longest) / 4 < rises < 3 * len(longest) / 4


@pytest.mark.parametrize("batch_tokens", [1, 40, 1000, 10**6])
def test_batches_by_tokens_are_equal_shares_of_every_row_once(batch_tokens: int) -> None:
    plan = Plan(LENGTHS, TrainingConfig(batch_tokens=batch_tokens, epochs=2))
    assert plan.steps_per_epoch == max(1, min(1003, -(-sum(LENGTHS) // batch_tokens)))
    for epoch in range(2):
        batches = [plan.rows(epoch * plan.steps_per_epoch + step) for step in range(1, plan.steps_per_epoch + 1)]
        assert sorted(row for batch in batches for row in batch) == list(range(1003))
        share = sum(LENGTHS) / len(batches)
        if batch_tokens == 1000:
            sums = [sum(LENGTHS[row] for row in batch) for batch in batches]
            assert max(abs(one - share) for one in sums) <= 2 * 512
            longest = [max(LENGTHS[row] for row in batch) for batch in batches]
            near = sum(abs(one - share) <= most for one, most in zip(sums, longest, strict=True))
            assert near > 0.9 * len(batches)


def test_batches_by_tokens_depend_on_seed_and_epoch_alone() -> None:
    first = epoch_batches(LENGTHS, 32, seed=1, epoch=0, batch_tokens=1000)
    assert first == epoch_batches(LENGTHS, 7, seed=1, epoch=0, batch_tokens=1000)
    assert first != epoch_batches(LENGTHS, 32, seed=1, epoch=1, batch_tokens=1000)


def test_micro_batches_by_tokens_hold_so_many_or_one_long_row() -> None:
    plan = Plan(LENGTHS, TrainingConfig(batch_tokens=2000, micro_batch_tokens=300, micro_batch_rows=5))
    for step in range(1, plan.steps_per_epoch + 1):
        pieces = plan.micro_batches(step)
        assert [row for piece in pieces for row in piece] == plan.rows(step)
        assert all(len(piece) == 1 or sum(LENGTHS[row] for row in piece) <= 300 for piece in pieces)
        assert all(1 <= len(piece) <= 5 for piece in pieces)


def test_mixed_seeds_do_not_meet() -> None:
    seeds = {mixed_seed("dropout", seed, step) for seed in range(50) for step in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 1 << 63 for seed in seeds)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_share", [0.0, 0.25])
def test_learning_rate_is_transformers_schedule(schedule: str, warmup_share: float) -> None:
    import torch
    from transformers import get_scheduler

    config = TrainingConfig(schedule=schedule, warmup_share=warmup_share, learning_rate=0.5, epochs=5, batch_rows=2)
    plan = Plan([3] * 8, config)
    assert plan.steps == 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    peer = get_scheduler(name, optimizer, num_warmup_steps=plan.warmup_steps, num_training_steps=plan.steps + 1)
    for step in range(1, plan.steps + 1):
        optimizer.step()
        peer.step()
        assert plan.learning_rate(step) == pytest.approx(peer.get_last_lr()[0], rel=1e-12)
        assert plan.learning_rate(step) > 0


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"epochs": 3}, 12), ({"epochs": 0.5}, 2), ({"epochs": 0.01}, 1), ({"epochs": 3, "max_steps": 5}, 5)],
)
def test_steps_follow_epochs_and_limit(settings: dict[str, float], steps: int) -> None:
    assert Plan([3] * 30, TrainingConfig(batch_rows=8, **settings)).steps == steps


def test_plan_gives_the_same_rows_in_any_order_of_asking() -> None:
    config = TrainingConfig(batch_rows=8, epochs=3)
    forward, again = Plan(LENGTHS, config), Plan(LENGTHS, config)
    rows = {step: forward.rows(step) for step in range(1, forward.steps + 1)}
    assert all(again.rows(step) == rows[step] for step in (300, 1, forward.steps, 126, 127))


def test_micro_batches_cut_a_step_and_change_no_row() -> None:
    config = TrainingConfig(batch_rows=8, micro_batch_rows=3)
    plan = Plan(LENGTHS, config)
    pieces = plan.micro_batches(5)
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    assert [row for piece in pieces for row in piece] == Plan(LENGTHS, TrainingConfig(batch_rows=8)).rows(5)


@pytest.mark.parametrize(
    ("every", "scored"),
    [(1.0, [4, 8, 10]), (0.5, [2, 4, 6, 8, 10]), (0.1, list(range(1, 11))), (9.0, [10]), (0.75, [3, 6, 9, 10])],
)
def test_validation_is_scored_at_each_interval_and_at_the_end(every: float, scored: list[int]) -> None:
    plan = Plan([3] * 8, TrainingConfig(batch_rows=2, epochs=2.5, evaluate_every_epochs=every))
    assert [step for step in range(1, plan.steps + 1) if plan.is_scored(step)] == scored
