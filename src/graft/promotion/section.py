"""The params section of promotion: what decides, at which risk, and what must not get worse."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Limit
from pydantic import field_validator, model_validator

from graft.config import Section


class SliceConfig(Section):
    """Some of the test rows: a slice of the report, a label, a column of the data, a length. All must hold."""

    name: str | None = None
    """A slice that evaluate measured, as metrics.json names it (``language=de``, ``length=4/4``)."""

    label: str | None = None
    """Rows whose right answer is this label."""

    column: str | None = None
    """A column of the part files, with ``value``; without it, each value that has ``min_rows`` rows is a slice."""

    value: str | None = None
    """The value of ``column``."""

    shorter_than_tokens: int | None = Limit(default=None, ge=2)
    """Rows of fewer tokens."""

    longer_than_tokens: int | None = Limit(default=None, ge=1)
    """Rows of more tokens."""

    @model_validator(mode="after")
    def _says_something(self) -> SliceConfig:
        if self.value is not None and self.column is None:
            raise ValueError("value needs a column")
        if not self.model_fields_set - {"value"}:
            raise ValueError("names no rows; set name, label, column, shorter_than_tokens or longer_than_tokens")
        return self


class GateConfig(Section):
    """One thing that must not get worse by more than a margin, whatever else got better."""

    metric: str | None = None
    """A metric of the task over the test rows (``macro_f1``, ``ece``); with ``slice`` alone: the one that decides."""

    probe: str | None = None
    """What a probe of evaluate measured item by item (``artifacts/evaluation/probes/<probe>``)."""

    groups: str | None = None
    """A column of the part files whose values are groups to be served alike (bias): between any two of them, the gap
    of the metric must not grow."""

    test_set: str | None = None
    """A test set from elsewhere (a folder in ``data/test_sets``): the metric on it, instead of on the test rows."""

    cost: (
        Literal["adapter_bytes", "adapter_parameters", "latency_p50_ms", "latency_p95_ms", "joules_per_row"] | None
    ) = None
    """What the adapter takes: the first two are counted, the others timed anew with the champion beside it and tested.
    The first champion is held against none."""

    slice: SliceConfig | None = None
    """Which test rows; all where not given."""

    margin: float = Limit(gt=0)
    """What the candidate may be worse by, in the metric's unit (of a cost: bytes, numbers, milliseconds, joules)."""

    min_rows: int = Limit(default=30, ge=2)
    """A slice or group of fewer rows is not tested: it could not pass."""

    @model_validator(mode="after")
    def _one_question(self) -> GateConfig:
        tested = [name for name in ("metric", "slice", "groups", "test_set") if getattr(self, name) is not None]
        others = [name for name in ("probe", "cost") if getattr(self, name) is not None]
        if not tested and not others:
            raise ValueError("names nothing to hold; set metric, slice, groups, test_set, probe or cost")
        if len(others) + bool(tested) > 1:
            raise ValueError(f"{others[0]} goes with no {(tested + others[1:])[0]}; make two gates of it")
        rows = [name for name in tested if name != "metric"]
        if len(rows) > 1:
            raise ValueError(f"{rows[1]} goes with no {rows[0]}; make two gates of it")
        return self

    @property
    def asks(self) -> tuple[str, ...]:
        """What is asked, without how much is asked for: two gates that ask the same are one too many."""
        return tuple(f"{name}: {value}" for name, value in self if name not in ("margin", "min_rows") and value)


class PromotionConfig(Section):
    """When a candidate becomes champion."""

    automatic: bool = True
    """Whether a pipeline run ends with a promotion decision; else `graft promote` takes it."""

    metric: str | tuple[str, ...] | None = None
    """The metric that decides; the task's headline metric where not given. Of several, being better by any one is
    enough; their number is paid for (Holm)."""

    aim: Literal["better", "not_worse"] = "better"
    """``better``: the candidate must be shown to be better. ``not_worse``: it is enough to be shown not to be worse by
    ``margin`` (a smaller or cheaper model, a retraining on fresh data)."""

    margin: float = Limit(default=0.0, ge=0)
    """With ``aim: not_worse``: what the candidate may be worse by, in the unit of the metric (0.01: one point)."""

    alpha: float = Limit(default=0.05, gt=0, lt=0.5)
    """The largest accepted chance of promoting, in all decisions on one test set together, a candidate that is not
    better, or that breaks a gate."""

    power: float = Limit(default=0.8, ge=0.5, lt=1)
    """The chance to decide at which an ``undecided`` names the rows it needs."""

    decisions_per_test_set: int | None = Limit(default=None, ge=1, le=100_000)
    """How many decisions one test set is to serve: each gets an equal share of ``alpha``. Not given: the first gets
    most (61 %, then 15 %, 7 %, 4 %, ... of it), so that a few decisions are cheap and there is no last one."""

    first_against: Literal["baselines", "base"] = "baselines"
    """What a candidate must beat where there is no champion yet: the base and every cheap predictor that evaluate
    scored, or the base alone."""

    gates: tuple[GateConfig, ...] = ()
    """What must not get worse; all of them must hold."""

    approval: Literal["none", "required"] = "none"
    """``required``: what the tests would promote waits for a person: the form in the Prefect UI, `graft promote
    --approve`, or the tag ``review = approved`` in the MLflow UI."""

    approval_hours: float = Limit(default=72.0, gt=0, le=24 * 365)
    """How long the form in the Prefect UI waits; a reminder comes half way. Then the decision is ``expired``, which is
    as undecided."""

    @field_validator("metric")
    @classmethod
    def _honest(cls, metric: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if metric == "ece" or (isinstance(metric, tuple) and "ece" in metric):
            raise ValueError(
                "ece cannot decide: chance alone puts it above 0, the more so the better the scores are; let log_loss "
                "decide, and hold the calibration with promotion.gates: [{metric: ece, margin: 0.02}]"
            )
        return metric

    @field_validator("gates")
    @classmethod
    def _each_asked_once(cls, gates: tuple[GateConfig, ...]) -> tuple[GateConfig, ...]:
        asked: dict[tuple[str, ...], int] = {}
        for number, gate in enumerate(gates):
            if (first := asked.setdefault(gate.asks, number)) != number:
                raise ValueError(
                    f"gates.{number} asks what gates.{first} asks, {', '.join(gate.asks)}; take one of them out"
                )
        return gates

    @model_validator(mode="after")
    def _margin_has_its_aim(self) -> PromotionConfig:
        if self.aim == "better" and self.margin:
            raise ValueError("margin is what a candidate may be worse by; set aim: not_worse too, or no margin")
        if self.aim == "not_worse" and not self.margin:
            raise ValueError("aim: not_worse needs a margin above 0")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that decide; empty: the task's headline metric."""
        return () if self.metric is None else (self.metric,) if isinstance(self.metric, str) else self.metric
