"""Plans what the C code does: fuses nodes into loops over pixels, and says where each result lies in the buffer.

Both profiles print the same steps. A convolution never stores its sums, but is fused with the node that reads
them. If several nodes read a convolution, it therefore runs several times, but no network from `fold` has
one. Nodes that nothing reads are left out.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import Node, Value

IMAGE = -1  # as the source of a step


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """A loop over pixels: `result = relu(saturate(last(conv(source)) + addend))`, without what is None or False."""

    result: int  # position of the node that it completes
    source: int  # result of the step that it reads, or IMAGE
    conv: nodes.StemNode | nodes.BinaryConvNode | None = None
    last: Node | None = None  # any node but Add, Relu and the convolutions
    addend: int | None = None  # a stream
    relu: bool = False
    others: tuple[int, ...] = ()  # the results behind the source in a Concat

    @property
    def stem(self) -> nodes.StemNode:
        """Returns the convolution of a step that has the stem."""
        assert isinstance(self.conv, nodes.StemNode)
        return self.conv

    @property
    def binary_conv(self) -> nodes.BinaryConvNode:
        """Returns the convolution of a step that has a binary one."""
        assert isinstance(self.conv, nodes.BinaryConvNode)
        return self.conv

    @property
    def thresholds(self) -> nodes.ThresholdsNode:
        """Returns the thresholds of a step that makes levels."""
        assert isinstance(self.last, nodes.ThresholdsNode)
        return self.last

    @property
    def requantize(self) -> nodes.RequantizeNode:
        """Returns the constants of a step that makes a stream of sums."""
        assert isinstance(self.last, nodes.RequantizeNode)
        return self.last

    @property
    def operands(self) -> tuple[int, ...]:
        """Returns the earlier results that the step reads."""
        return tuple(x for x in (self.source, self.addend, *self.others) if x not in (None, IMAGE))


class Size(NamedTuple):
    """The numbers of rows and columns of a result."""

    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of one network for images of one size.

    Args:
      network: the network that is planned.
      steps: the steps in the order in which they run.
      height, width: the size of the images.
    """

    network: IntegerNetwork
    steps: tuple[Step, ...]
    height: int
    width: int

    @property
    def values(self) -> tuple[Value, ...]:
        """Returns what is known about the results of all nodes."""
        return self.network.values

    def size(self, result: int) -> Size:
        """Returns the size of a node's result, or of the image for `IMAGE`."""
        if result == IMAGE:
            return Size(self.height, self.width)
        value = self.values[result]
        return Size(value.height.at(self.height), value.width.at(self.width))

    def title(self, step: Step) -> str:
        """Returns the name of what a step completes, or else its kind."""
        node = self.network.nodes[step.result]
        return node.name or nodes.kind(node)

    def planes(self, result: int) -> int:
        """Returns the bits of a result's levels."""
        return max(self.values[result].bound.bit_length(), 1)

    def seen(self, step: Step, kernel: np.ndarray) -> np.ndarray:
        """Returns the part of a kernel that sees the image, from the first place of a step's window: `[height, width, in, out]`."""
        assert step.conv is not None
        ((top, _), (left, _)), size = step.conv.window.padding, self.size(step.source)
        return kernel[top : top + size.height, left : left + size.width]

    def is_dense(self, step: Step) -> bool:
        """Returns whether a step has a convolution whose window has one place, from which it sees the whole image."""
        if step.conv is None or (isinstance(step.conv, nodes.BinaryConvNode) and step.conv.groups > 1):
            return False
        ((top, _), (left, _)), (kh, kw) = step.conv.window.padding, step.conv.window.size
        size = self.size(step.source)
        sees_all = top + size.height <= kh and left + size.width <= kw
        return sees_all and self.size(step.result) == Size(1, 1)


def plan(network: IntegerNetwork, height: int, width: int) -> Plan:
    """Returns the plan, where `Requantize`, `Add` and `Relu` join the loop before them if they alone read its result."""
    readers = _readers(network.nodes)
    steps: list[Step] = []
    done: set[int] = set()
    for i, node in enumerate(network.nodes):
        if i in done or i not in readers or isinstance(node, nodes.StemNode | nodes.BinaryConvNode):
            continue
        step = _fused(network.nodes, readers, i)
        done |= _chain(network.nodes, i, step)
        steps.append(step)
    return Plan(network, tuple(steps), height, width)


def _readers(network_nodes: Sequence[Node]) -> dict[int, Counter[int]]:
    """Returns, for each node that the logits depend on, which of those nodes read it and how often."""
    last = len(network_nodes) - 1
    readers: dict[int, Counter[int]] = {last: Counter()}
    for i in range(last, -1, -1):
        if i in readers:
            for j in network_nodes[i].inputs:
                readers.setdefault(j, Counter())[i] += 1
    return readers


def _fused(network_nodes: Sequence[Node], readers: Mapping[int, Counter[int]], i: int) -> Step:
    """Returns the step that begins with node i, or with the convolution that node i reads."""
    node = network_nodes[i]
    if isinstance(node, nodes.AddNode):
        step = Step(result=i, source=node.inputs[0], addend=node.inputs[1])
    elif isinstance(node, nodes.ReluNode):
        return Step(result=i, source=node.inputs[0], relu=True)
    else:
        step = _reading(network_nodes, i)
    if isinstance(node, nodes.RequantizeNode):
        follower = _only_reader(readers, i)
        if follower is not None and isinstance(network_nodes[follower], nodes.AddNode):
            other = min(network_nodes[follower].inputs)
            if other < i:  # else the other operand, which is computed later, is fused with the sum
                step = dataclasses.replace(step, result=follower, addend=other)
    if isinstance(node, nodes.RequantizeNode | nodes.AddNode):
        follower = _only_reader(readers, step.result)
        if follower is not None and isinstance(network_nodes[follower], nodes.ReluNode):
            step = dataclasses.replace(step, result=follower, relu=True)
    return step


def _reading(network_nodes: Sequence[Node], i: int) -> Step:
    source, *others = network_nodes[i].inputs
    if others:
        return Step(result=i, source=source, last=network_nodes[i], others=tuple(others))
    conv = network_nodes[source]
    if isinstance(conv, nodes.StemNode):
        return Step(result=i, source=IMAGE, conv=conv, last=network_nodes[i])
    if isinstance(conv, nodes.BinaryConvNode):
        return Step(result=i, source=conv.inputs[0], conv=conv, last=network_nodes[i])
    return Step(result=i, source=source, last=network_nodes[i])


def _only_reader(readers: Mapping[int, Counter[int]], i: int) -> int | None:
    return next(iter(readers[i])) if readers[i].total() == 1 else None


def _chain(network_nodes: Sequence[Node], i: int, step: Step) -> set[int]:
    """Returns the positions of the nodes that a step completes: i, and those that are fused with it."""
    chain = {i, step.result}
    if step.relu and not isinstance(network_nodes[i], nodes.ReluNode):
        chain.add(network_nodes[step.result].inputs[0])
    return chain


# The buffer.


@dataclasses.dataclass(frozen=True)
class Memory:
    """Places in the buffer, in bytes from its beginning."""

    offsets: Mapping[int, int]  # of results
    scratch: Mapping[int, int]  # of a step's working memory, by position of the step
    nbytes: int


def allocate(
    steps: Sequence[Step],
    sizes: Mapping[int, int],
    scratch: Sequence[int],
    align: int,
    inputs: Collection[int] = (),
    outputs: Collection[int] = (),
) -> Memory:
    """Places all results and working memories so that those in use at the same time do not overlap.

    A stream that is computed pixel by pixel from another one takes its place, if nothing reads the other one
    later.

    Args:
      steps: the steps of a plan.
      sizes: bytes of each input and of each step's result; 0 for a result that does not lie in the buffer.
      scratch: bytes of working memory of each step.
      align: the number of bytes that every place is a multiple of.
      inputs: results of earlier steps, which are there from the beginning.
      outputs: results that are read after the last step.
    """
    last_use = dict.fromkeys(inputs, 0) | {step.result: t for t, step in enumerate(steps)}
    last_use.update({x: t for t, step in enumerate(steps) for x in step.operands})
    last_use.update({x: len(steps) for x in outputs})
    slot = {x: x for x in inputs}  # of a result: the result whose place it takes
    spans = {
        ("result", x): [sizes[x], 0, last_use[x]] for x in inputs
    }  # of a slot: bytes, first and last step
    for t, step in enumerate(steps):
        taken = next((x for x in _overwritable(step, sizes) if last_use[x] == t), None)
        if taken is None:
            slot[step.result] = step.result
            spans["result", step.result] = [sizes[step.result], t, last_use[step.result]]
        else:
            slot[step.result] = slot[taken]
            spans["result", slot[taken]][2] = last_use[step.result]
        spans["scratch", t] = [scratch[t], t, t]
    places, nbytes = _place(spans, align)
    return Memory(
        {x: places["result", slot[x]] for x in slot},
        {t: places["scratch", t] for t in range(len(steps))},
        nbytes,
    )


def _overwritable(step: Step, sizes: Mapping[int, int]) -> list[int]:
    """Returns the operands that the result may take the place of: they have its layout and are read pixel by pixel."""
    if not isinstance(step.last, nodes.RequantizeNode | None):
        return []
    same = [step.addend] if step.addend is not None else []
    if step.conv is None:
        same.append(step.source)
    return [x for x in same if sizes[x] == sizes[step.result]]


def _place(
    spans: Mapping[tuple[str, int], Sequence[int]], align: int
) -> tuple[dict[tuple[str, int], int], int]:
    """Returns the first places that fit, found for the largest spans first, and the bytes of all."""
    places: dict[tuple[str, int], int] = {}
    nbytes = 0
    for key, (size, first, last) in sorted(
        spans.items(), key=lambda item: (-item[1][0], item[1][1], item[0])
    ):
        in_use = sorted(
            (places[k], places[k] + spans[k][0])
            for k in places
            if spans[k][1] <= last and first <= spans[k][2]
        )
        offset = 0
        for start, end in in_use:
            if offset + size <= start:
                break
            offset = max(offset, -(-end // align) * align)
        places[key] = offset
        nbytes = max(nbytes, offset + size)
    return places, nbytes
