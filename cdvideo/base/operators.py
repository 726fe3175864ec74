"""A function of tensors as the operators that it calls: run once, written down, and run again without modules and autograd around them.

A small model's tensors are so small that Python takes a good part of a step, of a training's and of a clip's. What is written down is below
autograd: of a function that asks for gradients, its backward pass, too. Results have the same bits. PyTorch's `make_fx` writes the same
down, but takes many times as long at it, which a short training would not earn back.

Nothing is seen of what goes past PyTorch's dispatcher, such as `Tensor.numpy()` and `Tensor.tolist()`.
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
_ADDED_UNTIL_LOOKED_THROUGH = 32
"""References to memory that may be free again. Each is a small thing between large holes, which could not become one."""
Results = tuple[Tensor | None, ...]


class NotRecordable(RuntimeError):
    """What a function does depends on more than the shapes of its inputs, or it changes what it was given, or it cannot be told."""


def record(
    function: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Tensor], changing: Sequence[Tensor] = ()
) -> tuple[Results, Recording]:
    """What `function` returns for `inputs`, and the function as the operators that it called for them.

    `changing` are tensors that it reads besides, and that change in place from call to call. What comes of other tensors alone is computed
    once. Raises NotRecordable for a function that looks at values or changes in place what was there before; no tensor has changed then.
    """
    recorder = _Recorder(inputs, changing)
    with recorder:
        results = [None if value is None else recorder.returned(value) for value in function(*inputs)]
    recorder.graph.output(tuple(node for _, node in (result or (None, None) for result in results)))
    recorder.graph.eliminate_dead_code()
    recording = Recording(recorder.graph, recorder.constants, [form_of(value) for value in inputs])
    return tuple(None if result is None else result[0] for result in results), recording


class Recording:
    """What `record` wrote down: called with inputs of the same shapes, types and order in memory, it returns what the function would."""

    def __init__(self, graph: fx.Graph, constants: dict[str, Any], forms: list[Any]) -> None:
        self._module, self._forms = fx.GraphModule(constants, graph), forms
        # Or graph and module hold each other, and all constants with them, until Python looks for such circles.
        self._module.graph.owning_module = None

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Results:
        forms = [form_of(value) for value in inputs]
        if forms != self._forms:
            raise ValueError(f"recorded for inputs of {self._forms}, and not of {forms}")
        # Not the module's own call, which prints the source where an operator fails.
        results: Results = self._module.forward(*inputs)
        return results


def form_of(value: Tensor) -> tuple[torch.Size, torch.dtype, tuple[int, ...]]:
    """What a recording is of: shape, type and order in memory."""
    return value.shape, value.dtype, value.stride()


class _Recorder(TorchDispatchMode):
    """Writes into `graph` every operator that reads a followed tensor; its results are followed, too.

    Followed are at first the inputs and what changes. Whether something may be changed in place depends on its memory, which views share.
    """

    def __init__(self, inputs: Sequence[Tensor], changing: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants: dict[str, Any] = {}
        self._nodes = WeakTensorKeyDictionary()
        self._constant_nodes: dict[int, fx.Node] = {}
        self._followed, self._made, self._read = _Memory(), _Memory(), _Memory()
        for number, value in enumerate(inputs):
            self._follow(value, self.graph.placeholder(f"input_{number}"))
        for value in changing:
            self._follow(value, self._constant(value))
        self._given = _Memory([*inputs, *changing])

    def returned(self, value: Tensor) -> tuple[Tensor, fx.Node]:
        """A result and its node: of a constant a copy, since results are the caller's to change."""
        node = self._nodes.get(value)
        if node is not None:
            return value, node
        return value.clone(), self.graph.call_function(torch.ops.aten.clone.default, (self._constant(value),))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        read = _tensors((args, kwargs))
        for value in read:
            if value not in self._nodes and value in self._followed:
                raise NotRecordable(f"{func} reads memory of a followed tensor in a way that was not seen")
        changed = _changed(func, args, kwargs)
        if not any(value in self._nodes for value in read) and torch.Tag.nondeterministic_seeded not in func.tags:
            if not all(value in self._made and value not in self._read for value in changed):
                raise NotRecordable(f"{func} changes a constant")
            result = func(*args, **kwargs)
            there = _Memory(read)
            self._made.add(value for value in _tensors(result) if value not in there)
            return result
        if not all(value in self._followed and value not in self._given for value in changed):
            raise NotRecordable(f"{func} changes an input or a constant")
        self._check(func, args, kwargs, read)
        result = func(*args, **kwargs)
        if func in _SAME:
            self._follow(result, self._nodes[read[0]])
            return result
        node = self.graph.call_function(func, *tree_map(self._written, (args, kwargs)))
        if isinstance(result, Tensor):
            self._follow(result, node)
        else:
            for index, value in enumerate(result):
                if isinstance(value, Tensor):
                    self._follow(value, self.graph.call_function(operator.getitem, (node, index)))
        return result

    def _check(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], read: Sequence[Tensor]) -> None:
        if _looks_at_values(func, read):
            raise NotRecordable(f"{func} looks at values")
        kinds = [str(returned.type) for returned in func._schema.returns]
        others = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Generator)]
        is_told = kinds == ["List[Tensor]"] or (kinds and set(kinds) == {"Tensor"})
        if not is_told or others or torch.Tag.inplace_view in func.tags:
            raise NotRecordable(f"{func} cannot be written down")

    def _follow(self, value: Tensor, node: fx.Node) -> None:
        if value.layout != torch.strided:
            raise NotRecordable(f"a tensor is laid out as {value.layout}")
        if value not in self._nodes:
            self._nodes[value] = node
            self._followed.add([value])

    def _constant(self, value: Tensor) -> fx.Node:
        if id(value) not in self._constant_nodes:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            self._constant_nodes[id(value)] = self.graph.create_node("get_attr", name)
            self._read.add([value])
        return self._constant_nodes[id(value)]

    def _written(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        node = self._nodes.get(value)
        return self._constant(value) if node is None else node


class _Memory:
    """The memory of tensors, which keeps none of it alive. What has none that others could share, as in oneDNN's layout, is left out."""

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        # A reference keeps the place of what is let go from being given to another.
        self._known: dict[int, StorageWeakRef] = {}
        self._num_added = 0
        self.add(values)

    def add(self, values: Iterable[Tensor]) -> None:
        for value in values:
            if value.layout == torch.strided:
                reference = StorageWeakRef(value.untyped_storage())
                self._known[reference.cdata] = reference
                self._num_added += 1
                if self._num_added % _ADDED_UNTIL_LOOKED_THROUGH == 0:
                    self._known = {place: one for place, one in self._known.items() if not one.expired()}

    def __contains__(self, value: Tensor) -> bool:
        return value.layout == torch.strided and value.untyped_storage()._cdata in self._known


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator changes in place."""
    if not func._schema.is_mutable:
        return []
    written = [
        kwargs.get(argument.name) if argument.kwarg_only or position >= len(args) else args[position]
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _tensors(written)


def _looks_at_values(func: Any, read: Sequence[Tensor]) -> bool:
    """Whether what an operator returns has a shape, or a value for Python, that depends on its tensors' values."""
    if func is torch.ops.aten.index.Tensor:
        return any(value.dtype in (torch.bool, torch.uint8) for value in read[1:])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
