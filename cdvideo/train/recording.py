"""A function of tensors as the operators that it calls: run once, written down, and run again without modules and autograd around them.

A small model's tensors are so small that a fifth of a training step is Python. What is written down is below autograd: of a function that
asks for gradients, its backward pass, too. The same operators run in the same order, so that the results have the same bits.
PyTorch's `make_fx` writes the same down, but takes as long at it as thirty steps do; this takes as long as four.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

_SAME = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
"""Operators that give the tensor itself, as far as anything below autograd is concerned."""


class NotRecordable(RuntimeError):
    """What a function does depends on more than the shapes of its inputs, or it changes what it was given."""


Results = tuple[Tensor | None, ...]


def record(
    function: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Tensor], changing: Iterable[Tensor] = ()
) -> tuple[Results, Recording]:
    """What `function` returns for `inputs`, and the function as the operators that it called for them.

    `changing` are tensors that it reads besides, and that change in place from call to call. What comes of other tensors alone is computed
    once. Raises NotRecordable for a function that looks at values, or that changes in place what was there before.
    """
    recorder = _Recorder()
    for number, value in enumerate(inputs):
        recorder.follow(value, recorder.graph.placeholder(f"input_{number}"))
    for value in changing:
        recorder.follow(value, recorder.constant(value))
    recorder.given = set(recorder.graph.nodes)
    with recorder:
        results = tuple(function(*inputs))
    recorder.graph.output(tuple(None if value is None else recorder.returned(value) for value in results))
    recorder.graph.eliminate_dead_code()
    return results, Recording(recorder.graph, recorder.constants, [value.shape for value in inputs])


class Recording:
    """What `record` wrote down: called with inputs of the same shapes, it returns what the function would."""

    def __init__(self, graph: fx.Graph, constants: dict[str, Any], shapes: list[torch.Size]) -> None:
        self._replay, self._shapes = fx.GraphModule(constants, graph), shapes

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Results:
        shapes = [value.shape for value in inputs]
        if shapes != self._shapes:
            raise ValueError(f"recorded for inputs of {self._shapes}, and not of {shapes}")
        results: Results = self._replay(*inputs)
        return results


class _Recorder(TorchDispatchMode):
    """Writes into `graph` every operator whose result depends on a followed tensor; results are followed, too."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants: dict[str, Any] = {}
        self.given: set[fx.Node] = set()
        self._nodes = WeakTensorKeyDictionary()
        self._made = WeakTensorKeyDictionary()
        self._memory: dict[int, StorageWeakRef] = {}
        self._constant_nodes: dict[int, fx.Node] = {}

    def follow(self, value: Tensor, node: fx.Node) -> None:
        self._nodes[value] = node
        reference = StorageWeakRef(value.untyped_storage())
        self._memory[reference.cdata] = reference

    def constant(self, value: Tensor) -> fx.Node:
        if id(value) not in self._constant_nodes:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            self._constant_nodes[id(value)] = self.graph.create_node("get_attr", name)
        return self._constant_nodes[id(value)]

    def node_of(self, value: Tensor) -> fx.Node:
        """The node of a followed tensor, or of a constant."""
        node: fx.Node | None = self._nodes.get(value)
        if node is not None:
            return node
        if value.layout == torch.strided and StorageWeakRef(value.untyped_storage()).cdata in self._memory:
            raise NotRecordable("a tensor shares memory with another one in a way that was not seen")
        return self.constant(value)

    def returned(self, value: Tensor) -> fx.Node:
        """The node of a result, which is the caller's to change: of a constant, a copy."""
        node = self.node_of(value)
        return node if value in self._nodes else self.graph.call_function(torch.ops.aten.clone.default, (node,))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        read = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        followed = [value for value in read if value in self._nodes]
        result = func(*args, **kwargs)
        if func in _SAME:
            if followed:
                self.follow(result, self._nodes[read[0]])
            return result
        changed = _changed(func, args, kwargs)
        if not followed and torch.Tag.nondeterministic_seeded not in func.tags and self._may_change(changed, self._made):
            for value in tree_flatten(result)[0]:
                if isinstance(value, Tensor):
                    self._made[value] = True
            return result
        if _looks_at_values(func, read):
            raise NotRecordable(f"{func} looks at values")
        if not self._may_change(changed, self._nodes):
            raise NotRecordable(f"{func} changes a tensor that was there before")
        node = self.graph.call_function(func, *tree_map(self._written, (args, kwargs)))
        if isinstance(result, Tensor):
            self._follow_result(result, node)
        else:
            for index, value in enumerate(result):
                if isinstance(value, Tensor):
                    self._follow_result(value, self.graph.call_function(operator.getitem, (node, index)))
        return result

    def _written(self, value: Any) -> Any:
        return self.node_of(value) if isinstance(value, Tensor) else value

    def _follow_result(self, value: Tensor, node: fx.Node) -> None:
        if value not in self._nodes:
            self.follow(value, node)

    def _may_change(self, changed: Sequence[Tensor], own: WeakTensorKeyDictionary) -> bool:
        """Whether these were made here, and are not read as they were before."""
        given = (self._nodes.get(value) in self.given or id(value) in self._constant_nodes for value in changed)
        return all(value in own for value in changed) and not any(given)


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator changes in place."""
    if not func._schema.is_mutable:
        return []
    written = [
        kwargs.get(argument.name) if argument.kwarg_only or position >= len(args) else args[position]
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [value for value in tree_flatten(written)[0] if isinstance(value, Tensor)]


def _looks_at_values(func: Any, read: Sequence[Tensor]) -> bool:
    """Whether what an operator returns has a shape, or a value for Python, that depends on its tensors' values."""
    if func is torch.ops.aten.index.Tensor:
        return any(value.dtype in (torch.bool, torch.uint8) for value in read[1:])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
