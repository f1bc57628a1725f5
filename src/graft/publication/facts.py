"""What is published, read from files alone and checked to belong together, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, IntegrityError
from graft.evaluation.overview import Row, summary
from graft.identity import digest_files, digest_folder, digest_json, run_key
from graft.validation.champion import PROFILE
from graft.workspace import Workspace, read_json

PROFILE_FOLDER = "validation"
"""Of a run's artifacts: where the profile of its data lies."""


@dataclass(frozen=True)
class Facts:
    """One trained, evaluated and proven adapter, as it lies on disk."""

    workspace: Workspace
    adapter: Path
    digest: str
    """The digest of the adapter folder: what a version is found by."""
    identity: Mapping[str, Any]
    proof: Mapping[str, Any]
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    """summary.json; empty where the training folder did not travel."""
    content: str
    """One digest over everything that is uploaded."""

    @property
    def key(self) -> str:
        """The run key."""
        return run_key(self.identity)

    @property
    def headline(self) -> str:
        return str(self.metrics["headline"])

    @property
    def rows(self) -> list[Row]:
        """The lines of the table of results."""
        return summary(self.metrics)

    def scores(self) -> dict[str, float]:
        """Return the test results as MLflow metrics.

        All metrics of the adapter (``test_accuracy``), and of the headline also its interval (``test_accuracy_low``)
        and the other systems' (``test_accuracy_base``): more would bury the curves in the UI; the report has it all.
        """
        found: dict[str, float | None] = {}
        for row in self.rows:
            for name, (value, low, high) in row.metrics.items():
                if row.system == "adapter":
                    found[f"test_{name}"] = value
                if name == self.headline and row.system == "adapter":
                    found |= {f"test_{name}_low": low, f"test_{name}_high": high}
                elif name == self.headline:
                    found[f"test_{name}_{row.system}"] = value
        return {name: value for name, value in found.items() if value is not None}


def uploads(workspace: Workspace) -> dict[str, Path]:
    """Return ``{folder in the run's artifacts: folder on disk}``."""
    return {
        "data_docs": workspace.data_docs,
        "evaluation": workspace.evaluation,
        "cost": workspace.cost,
        "training": workspace.training,
    }


def single_files(workspace: Workspace) -> dict[str, list[Path]]:
    """Return ``{folder in the run's artifacts: files on disk}``: what the run is made from, profile and proof."""
    return {
        "": [workspace.evaluation / "model_card.md"],
        "inputs": [workspace.params, workspace.sources_lock, workspace.dvc_lock, workspace.data_dvc],
        "quarantine": [workspace.quarantine / "summary.json"],
        PROFILE_FOLDER: [workspace.validation / "suite.json", workspace.validation / PROFILE],
        "proof": [workspace.package / "proof.json", workspace.package / "adapter" / "identity.json"],
    }


def read(workspace: Workspace) -> Facts:
    """Read the outputs of all stages.

    Raises:
        ConfigError: a stage has not run.
        IntegrityError: outputs that are of different adapters, or no passed reload proof.
    """
    adapter = workspace.package / "adapter"
    proof = read_json(workspace.package / "proof.json")
    if not adapter.is_dir():
        raise ConfigError(f"{adapter}: no such folder; run `graft stage register`")
    digest, identity = digest_folder(adapter), read_json(adapter / "identity.json")
    metrics = read_json(workspace.evaluation / "metrics.json")
    _check(workspace, digest, identity, proof, metrics)
    training = workspace.training / "summary.json"
    return Facts(
        workspace=workspace,
        adapter=adapter,
        digest=digest,
        identity=identity,
        proof=proof,
        metrics=metrics,
        training=_training(training, run_key(identity)),
        content=content_digest(workspace),
    )


def content_digest(workspace: Workspace) -> str:
    """Return one digest over all that is uploaded, so that a change of any report is published."""
    files = [file for files in single_files(workspace).values() for file in files if file.is_file()]
    folders = [folder for folder in uploads(workspace).values() if folder.is_dir()]
    return digest_json([digest_files(workspace.root, files), *(digest_files(folder) for folder in folders)])


def _check(
    workspace: Workspace, digest: str, identity: Mapping[str, Any], proof: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    if not proof.get("passed") or proof.get("adapter") != digest:
        raise IntegrityError(
            f"{workspace.package / 'proof.json'}: no passed reload proof of this adapter ({digest[:12]}); run "
            f"`graft stage register`"
        )
    if metrics["test"]["digest"] != identity["test"]:
        raise IntegrityError(
            f"{workspace.evaluation / 'metrics.json'}: scored on other test rows than the adapter's; run "
            f"`graft stage evaluate`"
        )
    if workspace.adapter.is_dir() and digest_folder(workspace.adapter) != digest:
        raise IntegrityError(
            f"{workspace.package}: packed from another adapter than {workspace.adapter}; run `graft stage register`"
        )


def _training(path: Path, key: str) -> dict[str, Any]:
    """Return the summary of the training if it is of this run: the folder is not digested with the adapter."""
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found if found.get("run_key") == key else {}
