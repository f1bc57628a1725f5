"""The model that MLflow loads: this very file travels with every version, with the modules it imports.

Raw rows in, answers out. The adapter's ``identity.json`` is verified file by file; the base is found by its digest:
in the package or at the path that it was trained from, else below the folders that ``GRAFT_BASES`` lists, else on the
Hub at the pinned commit. Works where graft is not installed.

Environment: ``GRAFT_BASES`` (folders, separated by colons), ``GRAFT_DEVICE`` (``cpu``, ``cuda`` or ``auto``; default
``cpu``), ``GRAFT_TRUST_REMOTE_CODE=1`` (lets Python code that comes with the base run: a base may need it, and no
artifact can ask for it), ``GRAFT_PUBLIC_KEYS`` (PEM files, separated by colons: an adapter without a valid signature by
one of these keys is refused; without it, a statement beside the adapter must at least be about its files).
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from graft.artifact import LoadedAdapter, load, predict
from graft.errors import IntegrityError
from graft.identity import digest_folder
from graft.provenance import Trust
from graft.provenance.signatures import check_beside


class AdapterModel(PythonModel):  # type: ignore[misc]
    """A base with its adapter, loaded when MLflow says so."""

    loaded: LoadedAdapter

    def load_context(self, context: Any) -> None:
        """Load and verify the adapter on its base.

        Raises:
            IntegrityError: a file, the base or a tensor is not what the identity says, or not what was signed, or the
                identity itself is not the one that was published.
            ResourceMissing: the base is nowhere; the message names its digest.
        """
        folder = Path(context.artifacts["adapter"])
        refuse_changed(folder)
        check_beside(folder, Trust.of_environment())
        self.loaded = load(
            folder,
            Path.cwd(),
            device=os.environ.get("GRAFT_DEVICE", "cpu"),
            trust_remote_code=os.environ.get("GRAFT_TRUST_REMOTE_CODE") == "1",
        )

    def predict(self, context: Any, model_input: pd.DataFrame) -> pd.DataFrame:  # noqa: ARG002  (MLflow's signature)
        """Return one answer per row; a list of texts or of objects is taken too."""
        return pd.DataFrame(predict(self.loaded, self._rows(model_input)))

    def _rows(self, given: Any) -> list[dict[str, Any]]:
        if isinstance(given, pd.DataFrame):
            # pandas reads an empty cell as NaN, which is no text: it counts as missing and is refused by its row.
            return [
                {str(name): _plain(value) for name, value in row.items() if not _missing(value)}
                for row in given.to_dict(orient="records")
            ]
        values = [given] if isinstance(given, str | dict) else list(given)
        first = next(field.name for field in self.loaded.task.fields_of(self.loaded.config) if not field.target)
        return [value if isinstance(value, dict) else {first: value} for value in values]


def refuse_changed(adapter: Path) -> None:
    """Compare the adapter with the digest that the model's ``MLmodel`` file has of it; models of old have none.

    Raises:
        IntegrityError: they differ.
    """
    description = adapter.parents[1] / "MLmodel"
    if not description.is_file():
        return
    metadata = yaml.safe_load(description.read_text(encoding="utf-8")).get("metadata") or {}
    published = metadata.get("graft.adapter")
    if published and digest_folder(adapter) != published:
        raise IntegrityError(
            f"{adapter}: has digest {digest_folder(adapter)[:12]} and was published as {published[:12]}: a file was "
            "changed; take the model from the registry again"
        )


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
    """Return numpy's arrays and numbers, which tables from Parquet or Spark hold, as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


set_model(AdapterModel())
