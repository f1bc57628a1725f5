"""Save, load and verify an adapter on its base.

PEFT loads a bit-flipped adapter, a changed ``lora_alpha``, another base of the same shape, and (with a warning) an
adapter without its head. So the artifact is PEFT's own layout, which any tool reads, beside an ``identity.json`` that
holds what it was made of; loading refuses everything that differs. The price is one hash of the base's files per load.

Nothing here needs git, DVC, MLflow, Prefect or Great Expectations: the published model ships these modules.
"""

from graft.artifact.base_weights import BASE_WEIGHTS, apply_to_base, changed_weights
from graft.artifact.execution import attention, pick_device, reproducible
from graft.artifact.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, IDENTITY, PROBE, save, verified
from graft.artifact.loading import LoadedAdapter, load, switched
from graft.artifact.planning import base_identity, planned_identity, same_recipe
from graft.artifact.scoring import answer_columns, judged, predict, raw_outputs
from graft.artifact.sharing import SharedTrunk
from graft.artifact.starts import folder_of, pinned
from graft.artifact.warm_start import begin_from

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "BASE_WEIGHTS",
    "IDENTITY",
    "PROBE",
    "LoadedAdapter",
    "SharedTrunk",
    "answer_columns",
    "apply_to_base",
    "attention",
    "base_identity",
    "begin_from",
    "changed_weights",
    "folder_of",
    "judged",
    "load",
    "pick_device",
    "pinned",
    "planned_identity",
    "predict",
    "raw_outputs",
    "reproducible",
    "same_recipe",
    "save",
    "switched",
    "verified",
]
