"""The ledger counts each storage once, from its making to its release, and knows when most were alive."""

import torch

from peftkit.plan.ledger import Ledger

FLOAT = 4


def test_storages_are_counted_until_they_are_released() -> None:
    ledger = Ledger("cpu")
    with ledger:
        first = torch.empty(1000)
        second = first + 1
        view = second.view(10, 100)
        del second
        third = view * 2
        del view
        weight = torch.empty(50, 100)
        product = torch.nn.functional.linear(third, weight)
        del third
    assert [one.size // FLOAT for one in ledger.trace.blocks] == [1000, 1000, 1000, 5000, 500]
    assert [one.died is None for one in ledger.trace.blocks] == [True, False, False, True, True]
    assert ledger.trace.peak == FLOAT * (1000 + 1000 + 5000 + 500)  # the view's storage is gone by then
    assert ledger.trace.top()[1].operation == "mm"
    assert first.shape == (1000,)
    assert product.shape == (10, 50)


def test_what_is_alive_at_the_peak_adds_up_to_it() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64)).to("meta")
    ledger = Ledger("meta")
    ledger.adopt(model.parameters(), "weights")
    with ledger:
        ledger.start("forward pass")
        loss = model(torch.empty(32, 64, device="meta")).sum()
        ledger.start("backward pass")
        loss.backward()
    _, top = ledger.trace.top()
    assert sum(one.size for one in ledger.trace.alive(top.at)) == top.bytes
    assert ledger.trace.by_kind(top.at)["weights"] == FLOAT * sum(one.numel() for one in model.parameters())
    assert ledger.trace.tops["backward pass"].bytes > ledger.trace.tops["forward pass"].bytes


def test_what_an_operation_holds_inside_itself_counts_while_it_runs() -> None:
    def hidden(func, args, result):
        return 1 << 20 if func.name() == "aten::add.Tensor" else 0

    ledger = Ledger("cpu", hidden=hidden)
    with ledger:
        one = torch.zeros(256)
        two = one + one
    assert ledger.trace.peak == 2 * 256 * FLOAT + (1 << 20)
    assert sum(block.size for block in ledger.trace.blocks if block.died is None) == 2 * 256 * FLOAT
    assert two.shape == one.shape


def test_other_devices_do_not_count() -> None:
    ledger = Ledger("meta")
    with ledger:
        kept = [torch.zeros(10), torch.empty(10, device="meta")]
    assert [one.size for one in ledger.trace.blocks] == [10 * FLOAT]
    assert len(kept) == 2
