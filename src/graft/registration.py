"""Pack the adapter and prove that it can be loaded: what cannot be reproduced is not registered.

The proof runs in a process of its own, which knows nothing but the folder: it loads the adapter on its base, scores
the probe rows, and must get what the trainer got, and something else than the base alone gives. That catches what no
file check can: an adapter saved without its head, weights that PEFT puts elsewhere, a base that is rebuilt otherwise.
It costs one more start of torch (about 10 s), in a stage that DVC caches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field as Limit

from graft import tasks
from graft.artifact import PROBE, load, reproducible, verified
from graft.base import BaseConfig, LockedBase, load_processor, locked
from graft.config import Section
from graft.errors import GraftError, IntegrityError
from graft.identity import digest_folder
from graft.tasks import TaskConfig
from graft.workspace import Workspace, replaced, write_json

if TYPE_CHECKING:
    import torch

EFFECT_TOLERANCES = 10
"""The adapter must change an output by this many tolerances, or it is as if it were not there."""
TRUST = "--trust-remote-code"


class RegistrationConfig(Section):
    """The registered model."""

    name: str = Limit(default="graft-adapter", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the registered model in MLflow."""

    description: str = ""
    """One paragraph for people who meet the model in the MLflow UI."""

    tolerance: float = Limit(default=1e-4, ge=0)
    """The largest absolute difference of outputs between the trainer and the reloaded adapter on the probe rows."""


def register(workspace: Workspace, *, task: TaskConfig, base: BaseConfig, registration: RegistrationConfig) -> None:
    """Prove ``artifacts/adapter`` and write ``artifacts/package``: the adapter, ``proof.json``, an input example.

    Raises:
        IntegrityError: the proof fails; nothing is written but ``report.json`` in the folder of failed stages.
        ResourceMissing: the base is not there.
    """
    identity = verified(workspace.adapter)
    pinned = locked(workspace, base)
    _check_base(identity, pinned, workspace.adapter)
    report = workspace.failed / "register"
    try:
        proof = judged(prove_in_new_process(workspace.adapter, workspace.root, base), registration.tolerance)
    except IntegrityError as error:
        write_json(report / "report.json", {"error": str(error)})
        raise
    proof["adapter"] = digest_folder(workspace.adapter)
    with replaced(workspace.package) as folder:
        shutil.copytree(workspace.adapter, folder / "adapter")
        write_json(folder / "proof.json", proof)
        write_json(folder / "input_example.json", input_example(workspace, task, pinned, base))
    shutil.rmtree(report, ignore_errors=True)
    print(
        f"register: reloaded on {proof['rows']} rows, difference {proof['reload_difference']:.1e} (allowed "
        f"{registration.tolerance:.0e}), effect of the adapter {proof['effect']:.2g}",
        flush=True,
    )


def judged(found: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """Return the proof of what a new process found.

    Raises:
        IntegrityError: the outputs differ from the trainer's, or do not differ from the base's.
    """
    difference, effect = found["reload_difference"], found["effect"]
    if not difference <= tolerance:  # also where it is NaN
        raise IntegrityError(
            f"artifacts/adapter: reloaded in a new process, its outputs differ from the trainer's by {difference:.2g} "
            f"(registration.tolerance is {tolerance:g}); the folder does not hold what was trained: train again"
        )
    if not effect > EFFECT_TOLERANCES * tolerance:
        raise IntegrityError(
            f"artifacts/adapter: its outputs differ from the base's by {effect:.2g} at most: the adapter does nothing; "
            f"look at adapter.target_modules and training.learning_rate, and train again"
        )
    return {**found, "passed": True, "tolerance": tolerance}


def prove_in_new_process(folder: Path, project_root: Path, base: BaseConfig) -> dict[str, Any]:
    """Run :func:`prove` in a fresh interpreter and return what it found.

    Raises:
        GraftError: of the class that the other process raised.
    """
    trust = [TRUST] if base.trust_remote_code else []
    source = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    finished = subprocess.run(
        [sys.executable, "-m", "graft.registration", str(folder), str(project_root), *trust],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if finished.returncode:
        raise _error_of(finished)
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def prove(folder: Path, project_root: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Load the adapter in ``folder`` and compare its outputs on the probe rows with the recorded ones.

    On the CPU in float32, as the trainer computed them; ``effect`` is the largest difference to the base's outputs.

    Raises:
        IntegrityError: it cannot be loaded as what its identity says.
    """
    import torch
    from safetensors.torch import load_file

    threads = int(verified(folder)["threads"])
    with reproducible(threads), torch.inference_mode():
        loaded = load(folder, project_root, trust_remote_code=trust_remote_code)
        probe = load_file(folder / PROBE)
        wanted, base = probe.pop("adapter_outputs"), probe.pop("base_outputs")
        found = loaded.task.outputs(loaded.config, loaded.model.float(), probe)
    if found.shape != wanted.shape:
        raise IntegrityError(f"{folder}: outputs have shape {list(found.shape)}, the trainer's {list(wanted.shape)}")
    return {
        "rows": len(wanted),
        "reload_difference": _largest(found - wanted),
        "effect": _largest(found - base),
    }


def input_example(workspace: Workspace, task: TaskConfig, pinned: LockedBase, base: BaseConfig) -> dict[str, Any]:
    """Return a raw row for the model's page: made from a probe row, whose tokens are in the artifact anyway."""
    from safetensors.numpy import load_file

    one = tasks.get(task.name)
    processor = load_processor(one.processor, pinned.folder(workspace.root, weights=False), base.trust_remote_code)
    columns = verified(workspace.adapter)["columns"]
    row = one.example(task, load_file(workspace.adapter / PROBE), processor)
    return {columns.get(name, name): value for name, value in row.items()}


def _check_base(identity: dict[str, Any], pinned: LockedBase, folder: Path) -> None:
    if identity["base"]["digest"] != pinned.digest:
        raise IntegrityError(
            f"{folder.name}: trained on base {identity['base']['source']} (digest {identity['base']['digest'][:12]}), "
            f"but sources.lock pins {pinned.source} (digest {pinned.digest[:12]}); run `graft stage train`"
        )


def _largest(difference: torch.Tensor) -> float:
    """Return the largest absolute value, with three digits: the rest is noise of the processor."""
    return float(f"{difference.abs().max().item():.2e}")


def _error_of(finished: subprocess.CompletedProcess[str]) -> GraftError:
    """Return the other process' error as one of this process."""
    lines = finished.stderr.strip().splitlines() or ["it printed nothing"]
    known = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    for kind in GraftError.__subclasses__():
        if known and kind.exit_code == finished.returncode:
            return kind(known)
    return IntegrityError(
        f"artifacts/adapter: the process that reloads it failed (exit code {finished.returncode}): {known or lines[-1]}"
    )


def main(arguments: list[str]) -> int:
    """``python -m graft.registration FOLDER PROJECT [--trust-remote-code]``: print what :func:`prove` finds as JSON."""
    try:
        found = prove(Path(arguments[0]), Path(arguments[1]), trust_remote_code=TRUST in arguments[2:])
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
