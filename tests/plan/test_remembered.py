"""What was seen before is answered without running it, and answered alike."""

import pytest
import torch

from peftkit.plan.remembered import Remembered


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_what_decides_an_answer_is_told_apart() -> None:
    remembered, add = Remembered(), torch.ops.aten.add.Tensor
    for _ in range(2):
        assert remembered(add, (meta(2, 3), meta(3)), {}).shape == (2, 3)
        assert remembered(add, (meta(2, 3), meta(2, 3, dtype=torch.float64)), {}).dtype == torch.float64
        assert remembered(add, (meta(3, 2).t(), meta(3, 2).t()), {}).stride() == (1, 2)
        assert remembered(torch.ops.aten.sum.dim_IntList, (meta(2, 3), [0]), {}).shape == (3,)
        assert remembered(torch.ops.aten.sum.dim_IntList, (meta(2, 3), [1]), {}).shape == (2,)


def test_what_shares_memory_still_does() -> None:
    remembered, given = Remembered(), meta(2, 3)
    for _ in range(2):
        assert remembered(torch.ops.aten.add_.Tensor, (given, 1.0), {}) is given
        view = remembered(torch.ops.aten._unsafe_view.default, (given, [3, 2]), {})
        assert view.untyped_storage()._cdata == given.untyped_storage()._cdata
        assert remembered(torch.ops.aten.add.Tensor, (given, 1.0), {}).untyped_storage()._cdata != (
            given.untyped_storage()._cdata
        )


def test_an_error_is_met_each_time() -> None:
    remembered = Remembered()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            remembered(torch.ops.aten.mm.default, (meta(2, 3), meta(2, 3)), {})
