from __future__ import annotations

import pytest

from graft.tracking import models


def test_library_of_a_quantised_base_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_distribution", lambda module: module)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0+cpu")
    base = {"kind": "folder", "source": "./base"}
    assert "bitsandbytes==1.0" not in models.requirements([], base)
    assert "bitsandbytes==1.0" in models.requirements([], {**base, "quantization": {"load_in_8bit": True}})


def test_arrays_of_a_table_are_lists_for_the_task() -> None:
    import numpy as np
    import pandas as pd

    from graft.tracking.pyfunc_model import AdapterModel

    table = pd.DataFrame({"tokens": [np.array(["a", "b"]), np.array(["c"])], "price": np.array([1, 2])})
    rows = AdapterModel()._rows(table)
    assert rows == [{"tokens": ["a", "b"], "price": 1}, {"tokens": ["c"], "price": 2}]
    assert all(type(row["tokens"]) is list and type(row["price"]) is int for row in rows)
