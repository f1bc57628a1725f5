from __future__ import annotations

import pytest

from graft.tracking import models


def test_library_of_a_quantised_base_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_distribution", lambda module: module)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0+cpu")
    base = {"kind": "folder", "source": "./base"}
    assert "bitsandbytes==1.0" not in models.requirements([], base)
    assert "bitsandbytes==1.0" in models.requirements([], {**base, "quantization": {"load_in_8bit": True}})
