"""What the predictions of the test rows say beyond the metrics: slices, groups, calibration, and the probes' findings.

Each is a section of the report, numbers in metrics.json, and limits of the model card; the order here is the report's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.evaluation import calibration, group_gaps, probes, slices
from graft.evaluation.calibration import Calibration
from graft.evaluation.group_gaps import Gap
from graft.evaluation.probes import About, Finding
from graft.evaluation.report import Drawing
from graft.evaluation.slices import Sliced
from graft.evaluation.traits import Traits

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation import EvaluationConfig

    Table = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Analyses:
    """All of it, of one adapter."""

    sliced: Sliced
    gaps: Sequence[Gap]
    calibrated: Calibration | None
    probed: Mapping[str, Finding]
    parts: Sequence[Finding]
    """The sections on parts of the test rows."""
    calibration: Finding | None

    @property
    def sections(self) -> list[Finding]:
        """All sections of the report, in its order."""
        return [*self.parts, *self.probed.values(), *([self.calibration] if self.calibration else [])]

    @property
    def limits(self) -> list[str]:
        """Sentences for the model card."""
        return [limit for one in self.sections for limit in one.limits]

    def as_json(self) -> dict[str, Any]:
        """Return the parts of metrics.json."""
        found: dict[str, Any] = {"slices": self.sliced.as_json()}
        found |= {"groups": group_gaps.as_json(self.gaps)} if self.gaps else {}
        found |= {"calibration": self.calibrated.as_json()} if self.calibrated else {}
        return found | ({"probes": probes.as_json(self.probed)} if self.probed else {})

    def write_masks(self, folder: Path, places: Sequence[str]) -> None:
        """Write which row is in which slice and group."""
        groups = [one for gap in self.gaps for one in gap.slices]
        slices.write_masks(folder, places, [*self.sliced.slices, *groups])


def analyse(
    adapter: Table,
    traits: Traits,
    probed: Mapping[str, Mapping[str, Table]],
    config: EvaluationConfig,
    about: About,
    folder: Path,
) -> Analyses:
    """Analyse the adapter's predictions; pictures and CSV files go to ``folder`` (plots), which may have some already.

    Args:
        adapter: its prediction table.
        traits: what is known of its rows.
        probed: what was measured beside the test rows: tables by probe and system.
        config: which slices, groups and probes.
        about: the task, all predictions, and what is private.
        folder: an existing folder.
    """
    task = about.task
    sliced = slices.measure(task, adapter, traits, config.slices, config)
    gaps = group_gaps.measure(task.metric(task.headline), adapter, traits, config.groups, config.slices, config)
    calibrated = calibration.measure(adapter, config)
    return Analyses(
        sliced=sliced,
        gaps=gaps,
        calibrated=calibrated,
        probed=probes.findings(config, probed, folder, about),
        parts=[
            slices.finding(sliced, config, _forest(sliced, folder)),
            *([group_gaps.finding(gaps, config)] if gaps else []),
        ],
        calibration=calibration.finding(calibrated, _reliability(folder), config) if calibrated else None,
    )


def _forest(sliced: Sliced, folder: Path) -> list[Drawing]:
    """Draw the slices with their intervals, and write them as CSV for ``dvc plots``."""
    from graft.evaluation import plots

    lines = slices.plot_rows(sliced)
    plots.write_csv(folder / "slices.csv", lines)
    if not lines:
        return []
    picture = folder / "slices.png"
    plots.forest(lines, sliced.metric, sliced.overall, picture)
    text = "; ".join(f"{one['slice']}: {one['value']:.3f}" for one in lines)
    title = f"{sliced.metric} by slice; dashed: all test rows ({sliced.overall:.3f}); diamond: shown to be worse"
    return [Drawing(title, text, picture)]


def _reliability(folder: Path) -> list[Drawing]:
    """Return the picture that the task's plot data made, where it has any."""
    picture = folder / "reliability.png"
    text = "What is right in how many of the rows, against the score of the answer"
    return [Drawing("Reliability", text, picture)] if picture.is_file() else []
