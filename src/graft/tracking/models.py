"""The model as MLflow keeps it: adapter, the code that loads it, and nothing of the base.

``mlflow.transformers`` would save the whole base, or reload a head silently wrong. This is a models-from-code pyfunc:
``pyfunc_model.py`` is the model, the files of ``graft`` that it imports travel with it, and the base is found at load
time by its digest. A model folder is built here, uploaded as a logged model of the run, downloaded again and compared;
only then does a version point to it. MLflow's own ``log_model`` does most of that through process-global state, so it
is done step by step on explicit ids.
"""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import IntegrityError, ResourceMissing
from graft.identity import code_of, digest_file, digest_files
from graft.tasks import FieldType
from graft.tracking.server import Connection
from graft.workspace import read_json

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

    from graft.tracking.registry import Version

MODEL_MODULE = "graft.tracking.pyfunc_model"
MODEL_NAME = "model"
ADAPTER_TAG = "graft.adapter"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
CORE_REQUIREMENTS = ("mlflow", "torch", "transformers", "peft", "safetensors", "pandas")
"""What loading needs, also where no import in the code names it."""
QUANTIZING = "bitsandbytes"
"""What transformers keeps a base in few bits with; no import names it."""
OTHER_NAMES = {"yaml": "PyYAML", "sklearn": "scikit-learn", "PIL": "pillow"}


@dataclass(frozen=True)
class Contents:
    """What a model folder is made from."""

    adapter: Path
    """The adapter folder, with identity.json, by whose digests the base is found at load time."""
    digest: str
    """The digest of the adapter folder."""
    task: str
    columns: Mapping[str, tuple[FieldType, bool]]
    """The columns of a raw row: name -> its type, and whether it is required."""
    example: Sequence[Mapping[str, Any]]
    """A few raw rows, and ..."""
    answers: Sequence[Mapping[str, Any]]
    """... what answers look like."""
    metadata: Mapping[str, Any]

    @property
    def base(self) -> dict[str, Any]:
        """The base's part of the identity."""
        found: dict[str, Any] = read_json(self.adapter / "identity.json")["base"]
        return found


def build(folder: Path, contents: Contents, logged: LoggedModel | None = None, run_id: str | None = None) -> None:
    """Write the model folder; ``logged`` and ``run_id`` say what it will belong to.

    Raises:
        IntegrityError: a file of the base would be part of it.
    """
    import mlflow

    known = {"artifact_path": logged.artifact_location, "model_id": logged.model_id} if logged else {}
    with tempfile.TemporaryDirectory(prefix="graft-model-") as temporary:
        code = Path(temporary) / "graft"
        files = write_code(code, contents.task)
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(code / "tracking" / "pyfunc_model.py"),
            artifacts={"adapter": str(contents.adapter)},
            code_paths=[str(code)],
            signature=signature(contents),
            input_example=_table(contents.example),
            pip_requirements=requirements(files, contents.base),
            mlflow_model=mlflow.models.Model(run_id=run_id, metadata=dict(contents.metadata), **known),
        )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    _without_local_paths(folder / "MLmodel")
    refuse_base_files(folder, contents.base)


def write_code(folder: Path, task: str) -> list[Path]:
    """Copy the part of ``graft`` that the model imports, transitively, and its task to ``folder``; return the files."""
    source = Path(__file__).parents[2]
    files = [*code_of(MODEL_MODULE, source), source / "graft" / "tasks" / f"{task}.py"]
    for file in files:
        target = folder / file.relative_to(source / "graft")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return files


def requirements(files: Iterable[Path], base: Mapping[str, Any]) -> list[str]:
    """Return the pinned distributions that the code imports, as installed here, and the one that carries the base."""
    modules = {name for file in files for name in _imported(file)} - set(sys.stdlib_module_names) - {"graft", "mlflow"}
    if base["kind"] == "package":
        modules.add(base["source"].removeprefix("package:").partition("/")[0].partition(".")[0])
    if base.get("quantization"):
        modules.add(QUANTIZING)
    names = set(CORE_REQUIREMENTS) | {name for module in modules if (name := _distribution(module))}
    # A local version (2.13.0+cpu) names a build that an index may not have.
    return sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names)


def _distribution(module: str) -> str | None:
    """Return the distribution that carries a module; most have its name, and reading all of them takes a second."""
    name = OTHER_NAMES.get(module, module)
    try:
        return str(importlib.metadata.metadata(name)["Name"])
    except importlib.metadata.PackageNotFoundError:
        return next(iter(importlib.metadata.packages_distributions().get(module, ())), None)


def signature(contents: Contents) -> Any:
    """Return the model's signature: the row's columns in, the answer's out.

    Pictures are bytes; MLflow takes them as base64 where they come as JSON.
    """
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType, Array, DataType

    kinds = {"number": DataType.double, "strings": Array(DataType.string), "messages": AnyType()}
    kinds["image"] = DataType.binary
    inputs = Schema(
        [
            ColSpec(kinds.get(kind, DataType.string), name, required=required)
            for name, (kind, required) in contents.columns.items()
        ]
    )
    return ModelSignature(inputs, infer_signature(model_output=_table(contents.answers)).outputs)


def refuse_base_files(folder: Path, base: Mapping[str, Any]) -> None:
    """Check that no weights of the base are in a model folder.

    Raises:
        IntegrityError: some are; a registry must not hold other people's weights, once per version.
    """
    known = {sha: name for name, sha in base["files"].items() if name.endswith(WEIGHTS)}
    for file in sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS):
        if name := known.get(digest_file(file)):
            raise IntegrityError(f"{file.relative_to(folder)}: is the base's {name}; a model holds the adapter alone")


def log(connection: Connection, contents: Contents, *, experiment: str, run_id: str) -> LoggedModel:
    """Find or create the run's logged model with this adapter; what was uploaded is downloaded and compared.

    Raises:
        IntegrityError: what came back differs from what was sent.
    """
    found = find(connection, contents.digest, experiment=experiment, run_id=run_id)
    if found is None:
        found = _upload(connection, contents, experiment, run_id)
    verify(connection, found.artifact_location, contents.adapter)
    return found


def find(connection: Connection, adapter_digest: str, *, experiment: str, run_id: str) -> LoggedModel | None:
    """Return the run's finished model with this adapter; remove those that a crash left half uploaded."""
    query = f"tags.`{ADAPTER_TAG}` = '{adapter_digest}' AND source_run_id = '{run_id}'"
    ready = []
    for model in connection.client.search_logged_models([experiment], query):
        if str(model.status) == "READY":
            ready.append(model)
        else:
            connection.client.delete_logged_model(model.model_id)
    return ready[0] if ready else None


def _upload(connection: Connection, contents: Contents, experiment: str, run_id: str) -> LoggedModel:
    from mlflow.entities import LoggedModelOutput

    client = connection.client
    tags = {ADAPTER_TAG: contents.digest}
    logged = client.create_logged_model(
        experiment, MODEL_NAME, run_id, tags=tags, params=client.get_run(run_id).data.params, model_type="adapter"
    )
    with tempfile.TemporaryDirectory(prefix="graft-upload-") as temporary:
        folder = Path(temporary) / "model"
        build(folder, contents, logged, run_id)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, "READY")


def verify(connection: Connection, location: str, adapter: Path) -> None:
    """Download a model's adapter and compare every file with ``adapter``.

    Raises:
        IntegrityError: names the files that differ.
    """
    with tempfile.TemporaryDirectory(prefix="graft-verify-") as temporary:
        there = digest_files(download(connection, location, "artifacts/adapter", Path(temporary)))
    here = digest_files(adapter)
    wrong = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if wrong:
        raise IntegrityError(
            f"{location}: {', '.join(wrong)} came back differing from {adapter}; nothing is registered"
        )


def location(connection: Connection, version: Version) -> str:
    """Return where the files of a version lie: its logged model's place, which over HTTP its source only names."""
    if version.model_id:
        return str(connection.client.get_logged_model(version.model_id).artifact_location)
    return version.source


def download(connection: Connection, location: str, path: str, to: Path) -> Path:
    """Download the folder or file ``path`` of a model to ``to``; return where it lies.

    Raises:
        ResourceMissing: it is not there.
    """
    return _downloaded(location, path, artifact_uri=f"{location.rstrip('/')}/{path}", to=to, connection=connection)


def download_of_run(connection: Connection, run_id: str, path: str, to: Path) -> Path:
    """Download the folder or file ``path`` of a run's artifacts to ``to``; return where it lies.

    Raises:
        ResourceMissing: it is not there.
    """
    return _downloaded(f"run {run_id}", path, run_id=run_id, artifact_path=path, to=to, connection=connection)


def _downloaded(name: str, path: str, *, to: Path, connection: Connection, **what: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        found = download_artifacts(**what, dst_path=str(to), tracking_uri=connection.uri)
    except (MlflowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ResourceMissing(f"{name}: {path} cannot be downloaded ({reason}); is the artifact store there?") from None
    return Path(found)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows))


def _imported(file: Path) -> set[str]:
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _without_local_paths(path: Path) -> None:
    """MLflow records where the parts came from on this machine; loading reads only the names."""
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
