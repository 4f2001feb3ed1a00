"""Calls in a module's forward, through torch.fx: one forward at a time, its children left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from archsearch.nn.mutating.candidates import MutationError
from archsearch.nn.mutating.plain import Call, Hole


class OneForward(fx.Tracer):
    """Traces one forward; every child is a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def matching_calls(
    owner: nn.Module, path: str, function: Callable[..., Any] | str
) -> tuple[fx.GraphModule, list[fx.Node]]:
    """The forward of a module as a graph, and the calls in it of a function, in order.

    Raises:
        MutationError: torch.fx cannot trace it, or it does something else in training than in evaluation.
    """
    with _mode(owner, training=True):
        graph = _traced(owner, path)
    with _mode(owner, training=False):
        other = _traced(owner, path)
    nodes = [node for node in graph.nodes if _is_call_of(node, function)]
    if nodes and str(graph) != str(other):
        raise MutationError(
            f"{path or 'the network'}: the forward of {type(owner).__name__} calls something else in training than in "
            "evaluation (such as functional.dropout(…, training=self.training)), which a traced graph cannot: use a "
            "module there (torch.nn.Dropout), or move the call that is searched into a submodule"
        )
    if nodes and (owner._forward_hooks or owner._forward_pre_hooks):
        raise MutationError(
            f"{path or 'the network'}: {type(owner).__name__} has forward hooks, which tracing would lose; remove "
            "them, or leave this module out of match"
        )
    return fx.GraphModule(owner, graph, type(owner).__name__), nodes


@contextmanager
def _mode(owner: nn.Module, *, training: bool) -> Iterator[None]:
    before, owner.training = owner.training, training
    try:
        yield
    finally:
        owner.training = before


def _traced(owner: nn.Module, path: str) -> fx.Graph:
    try:
        return OneForward().trace(owner)
    except Exception as error:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise MutationError(
            f"{path or 'the network'}: torch.fx cannot trace the forward of {type(owner).__name__}: {first}; make the "
            "call a submodule (torch.nn.ReLU for functional.relu) and match its path without call, or narrow match "
            "so that it leaves this module out"
        ) from error


def call_name(node: fx.Node) -> str:
    """Short name of what a node calls: relu, add, flatten."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def names_of(graph: fx.Graph) -> list[str]:
    """Short names of all calls in a forward, in order."""
    return [call_name(node) for node in graph.nodes if node.op in ("call_function", "call_method")]


def _is_call_of(node: fx.Node, function: Callable[..., Any] | str) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    return call_name(node) == function if isinstance(function, str) else node.target is function


def as_module(node: fx.Node) -> tuple[Call, tuple[fx.Node, ...]]:
    """The call as a module, and the nodes that it is given."""
    inputs: list[fx.Node] = []

    def hole(each: fx.Node) -> Any:
        if each not in inputs:
            inputs.append(each)
        return Hole(inputs.index(each))

    args = fx.node.map_arg(node.args, hole)
    kwargs = fx.node.map_arg(node.kwargs, hole)
    target: Any = node.target
    return Call(target, tuple(args), dict(kwargs)), tuple(inputs)


def replace_call(graph_module: fx.GraphModule, node: fx.Node, inputs: tuple[fx.Node, ...], module: nn.Module) -> str:
    """Let a module be called in place of a node, with the same inputs. Returns its name."""
    name = _free_name(graph_module, node.name)
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(node):
        new = graph_module.graph.call_module(name, inputs)
    node.replace_all_uses_with(new)
    graph_module.graph.erase_node(node)
    return name


def insert_call(graph_module: fx.GraphModule, node: fx.Node, module: nn.Module, *, before: bool) -> str:
    """Let a module be called on the first input of a node, or on what the node gives. Returns its name."""
    name = _free_name(graph_module, f"{node.name}_{'before' if before else 'after'}")
    graph_module.add_submodule(name, module)
    if before:
        first = node.all_input_nodes[0]
        with graph_module.graph.inserting_before(node):
            new = graph_module.graph.call_module(name, (first,))
        node.replace_input_with(first, new)
    else:
        with graph_module.graph.inserting_after(node):
            new = graph_module.graph.call_module(name, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return name


def _free_name(graph_module: fx.GraphModule, name: str) -> str:
    while hasattr(graph_module, name):
        name += "_"
    return name
