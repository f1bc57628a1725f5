import pytest

from graft.padding import mask_of, padded, split_windows

ROWS = [[5, 6, 7], [8], []]


@pytest.mark.parametrize("left", [False, True])
def test_padded_equals_torchs_pad_sequence(left):
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tensors = [torch.tensor(row, dtype=torch.int64) for row in ROWS]
    expected = pad_sequence(tensors, batch_first=True, padding_value=9, padding_side="left" if left else "right")
    assert torch.equal(padded(ROWS, 9, left=left), expected)
    ones = [torch.ones_like(row) for row in tensors]
    side = "left" if left else "right"
    assert torch.equal(mask_of(ROWS, left=left), pad_sequence(ones, batch_first=True, padding_side=side))


def test_padded_takes_a_width():
    found = padded(ROWS, 0, width=4)
    assert found.shape == (3, 4)
    assert found[1].tolist() == [8, 0, 0, 0]


def test_windows_put_together_are_the_row():
    flat, lengths = list(range(10)), [4, 0, 3, 3]
    windows = list(split_windows(flat, lengths))
    assert [len(window) for window in windows] == lengths
    assert [token for window in windows for token in window] == flat
