"""Pack, prove, publish. (Section first; the stage follows.)"""

from __future__ import annotations

from pydantic import Field as Limit

from graft.config import Section


class RegistrationConfig(Section):
    """The registered model."""

    name: str = Limit(default="graft-adapter", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the registered model in MLflow."""

    description: str = ""
    """One paragraph for people who meet the model in the MLflow UI."""

    tolerance: float = Limit(default=1e-4, ge=0)
    """The largest absolute difference of outputs between the trainer and the reloaded adapter on the probe rows."""
