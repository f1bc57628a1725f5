"""A method is added by writing one file in ``adapters/``: tried on a copy of the package, in a fresh process.

The copy is what a user's clone would be after the one file; nothing else in it, dvc.yaml included, is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graft import adapters

ROOT = Path(__file__).parents[2]
NEW_FILE = '''
"""A scale per output of a linear layer; and a head alone, under another name."""

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from graft.adapters.procedure import Procedure
from graft.adapters.reference_tuner import ProbeConfig, ReferenceModel
from graft.adapters.tuners import Method, peft_type


@dataclass
class ScaledConfig(PeftConfig):
    target_modules: list[str] | str | None = field(default_factory=lambda: ["query", "value"])
    modules_to_save: list[str] | None = None
    strength: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = peft_type("scaled")


class ScaledLayer(nn.Module, BaseTunerLayer):
    adapter_layer_names = ("scaled_by",)

    def __init__(self, base_layer, adapter_name, config):
        super().__init__()
        self.base_layer, self.strength = base_layer, config.strength
        self.scaled_by = nn.ParameterDict({adapter_name: nn.Parameter(torch.zeros(base_layer.out_features))})
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def forward(self, x):
        result = self.base_layer(x)
        return result if self.disable_adapters else result * (1 + self.strength * self.scaled_by["default"])


class ScaledModel(BaseTuner):
    prefix, tuner_layer_cls, target_module_mapping = "scaled_", ScaledLayer, {}

    def _prepare_adapter_config(self, peft_config, model_config):
        return peft_config

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, current_key, parameter_name=None):
        self._replace_module(parent, target_name, ScaledLayer(target, adapter_name, config), target)


class Counting(Procedure):
    def __init__(self, model):
        self.model, model.steps_seen = model, []

    def after_step(self, step):
        self.model.steps_seen.append(step)


@dataclass
class AloneConfig(ProbeConfig):
    def __post_init__(self):
        super().__post_init__()
        self.peft_type = peft_type("alone")


class AloneModel(ReferenceModel):
    prefix = "alone_"


METHODS = {
    "scaled": Method(ScaledConfig, ScaledModel, procedure=Counting),
    "alone": Method(AloneConfig, AloneModel, head_alone=True, leaves_matrices=True),
}
'''
USE = """
import sys
from pathlib import Path
from graft import adapters, stages
assert sys.modules.keys().isdisjoint({"torch", "peft", "graft.adapters.newtuner"}), "imported with the package"
place, root = Path(sys.argv[1]), Path(sys.argv[2])
assert stages.render(place, place) == (root / "dvc.yaml").read_text()

assert {"scaled", "alone", "bottleneck", "lora"} <= set(adapters.methods())
assert list(adapters.keys("scaled")) == ["target_modules", "modules_to_save", "strength"]
assert adapters.head_alone("alone") and not adapters.head_alone("scaled")

import tests.adapters.test_every_method as matrix
from graft.errors import ConfigError
from tests.adapters.conftest import write_base

base = place / "base"
write_base(base, "encoder")
pair = matrix.Pair("scaled", "regression-encoder", lambda _: base)
summary = pair.preview()
assert summary.modules and summary.head_input == (), summary
assert sum(name.endswith("scaled_by.default") for name in summary.trained) == len(summary.modules)
matrix.test_pair_trains_saves_and_reloads_or_says_why_not(
    "scaled", "regression-encoder", lambda _: base, place / "saved")
assert pair.trained(place / "again")[0].steps_seen == [1, 2]

assert matrix.Pair("alone", "regression-encoder", lambda _: base).preview().head_input == (1, 32)
adapters.refuse_quantized(adapters.peft_config(adapters.AdapterConfig(method="alone")), unfreeze=False)
try:
    adapters.refuse_quantized(adapters.peft_config(adapters.AdapterConfig(method="scaled")), unfreeze=False)
except ConfigError as error:
    assert "no layers of 'scaled' for matrices in few bits" in str(error), error
else:
    raise AssertionError("a method that touches matrices was accepted")
print("used")
"""


@pytest.mark.slow
def test_method_of_one_new_file_is_found_checked_trained_saved_and_reloaded(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "graft", tmp_path / "src" / "graft", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "src" / "graft" / "adapters" / "newtuner.py").write_text(NEW_FILE)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path), str(ROOT)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "used"


@pytest.mark.parametrize(
    ("name", "message"),
    [("lora", "PEFT has a method 'lora' already"), ("probe", "has a method 'probe' too")],
)
def test_method_whose_name_is_taken_says_so(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"from graft.adapters.tuners import Method\nMETHODS = {{{name!r}: Method(dict, dict)}}\n"
    (tmp_path / "sametuner.py").write_text(text)
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    try:
        with pytest.raises(ValueError, match=message):
            adapters.methods()
    finally:
        del sys.modules["graft.adapters.sametuner"]
