"""MLflow. (Section first; the rest follows.)"""

from __future__ import annotations

from pydantic import Field as Limit

from graft.config import Section


class TrackingConfig(Section):
    """Where runs and model versions are recorded."""

    uri: str | None = None
    """MLflow's tracking URI; default: the environment variable ``MLFLOW_TRACKING_URI``, else SQLite in ``mlflow/store``. No password here: use ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``."""

    experiment: str = Limit(default="graft", min_length=1)
    """The MLflow experiment that holds the runs."""
