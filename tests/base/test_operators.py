"""What is recorded computes the same bits as what it was recorded from, on inputs that it has not seen."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from cdvideo.base import operators
from cdvideo.base.operators import NotRecordable, record


def test_by_hand_a_gradient_of_other_inputs_and_of_a_weight_that_has_changed():
    """Of the sum of (w x)² the gradient by w is 2 w times the sum of x²."""
    weight = torch.tensor(3.0, requires_grad=True)

    def function(values):
        return torch.autograd.grad((weight * values).square().sum(), weight)

    first, recording = record(function, [torch.tensor([1.0, 2.0])], [weight])
    assert first[0].item() == 2 * 3 * 5
    with torch.no_grad():
        weight.fill_(-1.0)
    assert recording(torch.tensor([3.0, 4.0]))[0].item() == 2 * -1 * 25


def test_views_changes_in_place_lists_and_nothing():
    def function(values):
        parts = values.clone().split(2)
        parts[0].mul_(10)
        rows = torch.stack(parts)
        mean, deviation = torch.var_mean(rows, dim=1)
        return rows.t()[1], None, torch.cat(parts), mean, deviation, values

    first, recording = record(function, [torch.arange(4.0)])
    for values in (torch.arange(4.0), torch.randn(4)):
        for found, expected in zip(recording(values), function(values), strict=True):
            assert (found is None) == (expected is None)
            assert found is None or torch.equal(found, expected)
    assert first[1] is None


def test_what_depends_on_no_input_is_computed_once_and_given_as_a_copy():
    table, calls = torch.tensor([4.0, 9.0]), []

    def function(values):
        calls.append(1)
        roots = torch.zeros(2).add_(table.sqrt())
        return values * roots, roots

    first, recording = record(function, [torch.ones(2)])
    first[1].fill_(0)
    recording(torch.ones(2))[1].fill_(0)
    table.fill_(0)
    scaled, roots = recording(torch.tensor([1.0, 2.0]))
    assert scaled.tolist() == [2, 6] and roots.tolist() == [2, 3] and len(calls) == 1


def test_random_numbers_are_drawn_anew():
    _, recording = record(lambda values: [F.dropout(values + torch.rand(64), 0.5)], [torch.zeros(64)])
    torch.manual_seed(1)
    one, other = (recording(torch.zeros(64))[0] for _ in range(2))
    torch.manual_seed(1)
    assert not torch.equal(one, other) and torch.equal(one, recording(torch.zeros(64))[0])


TABLE = torch.tensor([1.0, 2.0, 3.0])


def changed_after_it_was_read(values, change):
    ones = torch.ones(3)
    sums = values + ones
    change(ones)
    return [sums * ones]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda values: [values * values.max().item()], "looks at values"),
        (lambda values: [values[values > 0]], "looks at values"),
        (lambda values: [values.nonzero()], "looks at values"),
        (lambda values: [values.add_(1)], "changes an input"),
        (lambda values: [values.view(-1).add_(1)], "changes an input"),
        (lambda values: [torch.zeros(3).copy_(values)], "changes an input or a constant"),
        (lambda values: [values + TABLE.view(-1).add_(1)], "changes a constant"),
        (lambda values: changed_after_it_was_read(values, lambda ones: ones.mul_(3)), "changes a constant"),
        (lambda values: changed_after_it_was_read(values, lambda ones: ones.view(-1).mul_(3)), "changes a constant"),
        (lambda values: changed_after_it_was_read(values, lambda ones: ones.mul_(values)), "changes an input or a constant"),
        (lambda values: [(values + 0).detach().unsqueeze_(0) + values], "cannot be written down"),
        (lambda values: [values + torch.rand(3, generator=torch.Generator())], "cannot be written down"),
        (lambda values: [(values + 0).to_mkldnn().to_dense()], "_mkldnn"),
    ],
)
def test_what_cannot_be_recorded_says_so_and_changes_nothing(function, said):
    values = torch.tensor([1.0, -2.0, 3.0])
    with pytest.raises(NotRecordable, match=said):
        record(function, [values])
    assert values.tolist() == [1, -2, 3] and TABLE.tolist() == [1, 2, 3]


def test_a_view_from_before_of_what_is_followed_is_noticed():
    values = torch.tensor([1.0, 2.0])
    view = values.view(2, 1)
    for function in (lambda given: [given * view], lambda given: [given + 1, view * 2]):
        with pytest.raises(NotRecordable, match="in a way that was not seen"):
            record(function, [values])


def test_views_of_a_constant_that_is_read_first_keep_it_from_being_changed():
    def function(values):
        ones = torch.ones(2)
        sums = values + ones.view(2)
        ones.mul_(3)
        return [sums]

    with pytest.raises(NotRecordable, match="changes a constant"):
        record(function, [torch.zeros(2)])


def test_a_recording_that_is_let_go_takes_its_constants_along():
    kept = []

    def function(values):
        table = torch.ones(1000).cumsum(0)
        kept.append(weakref.ref(table.untyped_storage()))
        return [values * table]

    gc.disable()
    try:
        _, recording = record(function, [torch.zeros(1000)])
        assert kept[0]() is not None
        del recording
        assert kept[0]() is None
    finally:
        gc.enable()


def test_other_shapes_types_and_orders_are_refused():
    _, recording = record(lambda values: [values * 2], [torch.zeros(2, 3)])
    with pytest.raises(ValueError, match=r"recorded for inputs of .*\[2, 3\].*\[3, 3\]"):
        recording(torch.zeros(3, 3))
    for other in (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2).t()):
        with pytest.raises(ValueError, match="recorded for inputs of"):
            recording(other)


def test_recording_holds_no_more_than_the_function_does():
    seen = []

    def function(values):
        between = values + 1
        seen.append(weakref.ref(between.untyped_storage()))
        between = between * 2
        gc.collect()
        assert seen[0]() is None, "what the function let go is kept"
        return [between]

    record(function, [torch.zeros(2)])


def test_memory_that_is_free_again_is_not_kept_apart_from_its_neighbours():
    known = operators._Memory()
    kept = [torch.zeros(4) for _ in range(3)]
    known.add(kept)
    for _ in range(200):
        known.add([torch.zeros(4)])
    assert len(known._known) < 40 and all(value in known for value in kept)
