"""Outputs of batches, put together in the order of the rows whatever their widths."""

import numpy as np
import pytest

from graft.artifact.scoring import raw_outputs


class Words:
    """A task whose outputs are as wide as its batch: each token's number and its negative."""

    def collate(self, rows, pad_token_id, state):
        from graft.padding import padded

        return {"input_ids": padded([row["input_ids"] for row in rows], pad_token_id)}

    def outputs(self, config, model, batch):
        import torch

        return torch.stack([batch["input_ids"], -batch["input_ids"]], dim=-1).float()


@pytest.mark.parametrize("batch_rows", [1, 2, 5])
def test_outputs_of_different_widths_are_filled_up_with_nan(batch_rows):
    rows = [{"input_ids": list(range(1, 1 + length))} for length in (4, 1, 3, 5, 2)]
    found = raw_outputs(None, Words(), None, {}, rows, pad_token_id=0, batch_rows=batch_rows, device="cpu")
    assert (found.shape, found.dtype) == ((5, 5, 2), np.float32)
    for row, one in zip(rows, found, strict=True):
        own = np.array(row["input_ids"], dtype=np.float32)
        np.testing.assert_array_equal(one[: len(own)], np.stack([own, -own], axis=1))
        rest = one[len(own) :]
        assert np.isin(rest[~np.isnan(rest)], 0).all()  # padding of its own batch, NaN beyond that
        assert batch_rows > 1 or np.isnan(rest).all()
