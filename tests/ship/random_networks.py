"""Random networks: everything that `nodes.value_types` accepts."""

import contextlib
import dataclasses

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Extent, Window
from qresnet_jax.ship.network import IntegerNetwork


class Builder:
    """Appends random nodes; positions of nodes are integers."""

    def __init__(self, rng, channels, size):
        self.rng, self.nodes, self.channels = rng, [], channels
        self.sizes = []  # (height, width) of each node's result
        self.image_size = size
        self.any_window = rng.random() < 0.5  # else only those that a ResNet has

    def add(self, node):
        size = self.sizes[node.inputs[0]] if node.inputs else self.image_size
        if isinstance(node, nodes.MeanPoolNode) and node.window is None:
            size = (1, 1)
        elif window := getattr(node, "window", None):
            extents = window.leaves(*(Extent(n, 0) for n in size))
            size = tuple(extent.add for extent in extents)
        self.nodes.append(node)
        self.sizes.append(size)
        return len(self.nodes) - 1

    def signs(self, *shape):
        return self.rng.choice(np.array([-1, 1], np.int8), shape)

    def kernel(self):
        sizes = self.rng.choice([1, 3, 3, 3, 5, 7], 2)
        return (int(sizes[0]),) * 2 if self.rng.random() < 0.8 else tuple(sizes.tolist())

    def window(self, size, kernel=None, stride=None):
        """A window that fits an image."""
        if not self.any_window or kernel is not None or self.rng.random() < 0.4:
            stride = stride or int(self.rng.integers(1, 3))
            return Window.centered(kernel or self.kernel(), stride)
        kernel = tuple(self.rng.integers(1, 6, 2).tolist())
        padding = []
        for k, n in zip(kernel, size, strict=True):
            before, after = self.rng.integers(0, k, 2).tolist()
            padding.append((k - 1, k - 1) if n + before + after < k else (before, after))
        return Window(kernel, tuple(self.rng.integers(1, 4, 2).tolist()), tuple(padding))

    def stem(self, out):
        if self.any_window and self.rng.random() < 0.1:
            window = Window(self.image_size)  # a dense layer
        else:
            window = self.window(
                self.image_size, stride=int(self.rng.integers(1, 3)) if self.rng.random() < 0.5 else 1
            )
        taps = window.size[0] * window.size[1] * self.channels
        reach = int(self.rng.choice([3, 100, 2**24 // (511 * taps)]))
        reach = min(reach, 2**24 // (511 * taps), 32767)
        return self.add(
            nodes.StemNode(
                weights=self.rng.integers(-reach, reach + 1, (*window.size, self.channels, out)).astype(
                    np.int16
                ),
                double_mean=self.rng.integers(0, 511, self.channels).astype(np.int16),
                window=window,
            )
        )

    def conv(self, x, features, out, window=None):
        window = window or self.window(self.sizes[x])
        groups = 1
        if self.any_window and self.rng.random() < 0.4:
            groups = int(self.rng.choice([g for g in range(1, features + 1) if features % g == out % g == 0]))
        signs = self.signs(*window.size, features // groups, out)
        return self.add(nodes.BinaryConvNode(inputs=(x,), signs=signs, window=window, groups=groups))

    def max_pool(self, x):
        window = self.window(self.sizes[x]) if self.any_window else Window.centered((3, 3), 2)
        return self.add(nodes.MaxPoolNode(inputs=(x,), window=window))

    def mean_pool(self, x):
        height, width = self.sizes[x]
        size = int(self.rng.integers(1, min(height, 4) + 1)), int(self.rng.integers(1, min(width, 4) + 1))
        strides = tuple(self.rng.integers(1, 4, 2).tolist())
        return self.add(nodes.MeanPoolNode(inputs=(x,), window=Window(size, strides)))

    def thresholds(self, x, channels, bound, max_level=2**14):
        bits = int(self.rng.choice([1, 2, 2, 2, 2, 3, 4, 8]))
        n = 2**bits - 1 if self.rng.random() < 0.7 else int(self.rng.integers(1, 2**bits))
        n = max(min(n, max_level), 1)
        if self.rng.random() < 0.3 and n <= 14 and 2 ** (n - 1) <= max_level:
            levels = [0, *(2**i for i in range(n))]
        elif self.rng.random() < 0.2:
            levels = [0, *sorted(self.rng.choice(np.arange(1, max_level + 1), n, replace=False))]
        else:
            levels = range(n + 1)
        rows = int(self.rng.choice([1, channels]))
        reach = int(self.rng.choice([bound // 8 + 1, bound + 2, 2**31 - 1]))
        t = self.rng.integers(-reach, reach + 1, (rows, n))
        if self.rng.random() < 0.3:
            t[:, 0], t[:, -1] = -(2**31), 2**31 - 1
        return self.add(
            nodes.ThresholdsNode(
                inputs=(x,),
                thresholds=np.sort(t, axis=1).astype(np.int32),
                direction=self.signs(rows),
                levels=np.array(levels, np.int32),
            )
        )

    def requantize(self, x, channels, bound):
        if self.rng.random() < 0.6:  # as from `fold`: 19 bits, the result in the middle of int16
            shift = self.rng.integers(8, 18, channels)
            multiplier = self.rng.integers(-(2**18), 2**18, channels)
            offset = self.rng.integers(-(2**20), 2**20, channels) + 2 ** (shift - 1)
        else:
            shift = self.rng.integers(0, 41, channels)
            multiplier = self.rng.integers(-(2**31), 2**31, channels)
            offset = self.rng.integers(-(2**59), 2**59, channels) >> self.rng.integers(0, 59, channels)
        return self.add(
            nodes.RequantizeNode(
                inputs=(x,),
                multiplier=multiplier.astype(np.int32),
                offset=offset.astype(np.int64),
                shift=shift.astype(np.uint8),
            )
        )


def random_network(seed, ordinary=False):
    """A network of a few random blocks, and the size of its images.

    Args:
      seed: of all choices.
      ordinary: only 3x3 and 1x1 kernels and more channels, as trained ResNets have.
    """
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 21, 2).tolist()) if rng.random() < 0.7 else (int(rng.integers(21, 80)), 33)
    build = Builder(rng, int(rng.choice([1, 3, 4])), size)
    most = 40 if ordinary else 11

    def channels():
        return int(rng.integers(1, most))

    if ordinary:
        build.kernel, build.any_window = lambda: (3, 3), False
    c = channels()
    stem = build.stem(c)
    stem_bound = 510 * int(np.abs(build.nodes[0].weights.astype(int)).sum((0, 1, 2)).max())
    x = build.requantize(stem, c, stem_bound)
    if rng.random() < 0.1:  # the stem's sums are read twice
        other = build.requantize(stem, c, stem_bound)
        x = build.add(nodes.AddNode(inputs=(other, x)))
    if rng.random() < 0.7:
        x = build.add(nodes.ReluNode(inputs=(x,)))
    if rng.random() < 0.3:
        x = build.max_pool(x)
    for _ in range(int(rng.integers(1, 4))):
        x, c = random_block(build, rng, x, c, channels)
        if build.any_window and rng.random() < 0.2:
            x = build.mean_pool(x)
        if build.any_window and rng.random() < 0.2 and c < 30:
            relu = build.add(nodes.ReluNode(inputs=(x,)))
            x, c = build.add(nodes.ConcatNode(inputs=(x, relu, x)[: int(rng.integers(2, 4))])), c
            c *= len(build.nodes[x].inputs)
    if rng.random() < 0.3:
        x = build.add(nodes.ReluNode(inputs=(build.requantize(x, c, 2**15),)))
    height, width = build.sizes[x]
    flat = build.any_window and height * width * c < 2000 and rng.random() < 0.3
    if not flat:
        x, height, width = build.add(nodes.MeanPoolNode(inputs=(x,))), 1, 1
    features, classes = height * width * c, int(rng.integers(1, 12))
    reach = min(2**30 // (2**15 * features), 32767)
    build.add(
        nodes.ClassifierNode(
            inputs=(x,),
            weights=rng.integers(-reach, reach + 1, (features, classes)).astype(np.int16),
            bias=rng.integers(-(2**29), 2**29, classes).astype(np.int32),
        )
    )
    network = IntegerNetwork(tuple(build.nodes), 8, 0.5, height=size[0], width=size[1])
    if rng.random() < 0.2 and not flat:
        with contextlib.suppress(ValueError):  # of results whose sizes are equal for these images alone
            network = dataclasses.replace(network, height=None, width=None)
    return network, size


def random_block(build, rng, x, c, channels):
    """One or two convolutions beside a shortcut, which is what it can be; its position and channels."""
    out = c if rng.random() < 0.5 else channels()
    first = build.thresholds(x, c, 2**15)
    if build.any_window and rng.random() < 0.2:
        first = build.max_pool(first)
    y, features = first, c
    for last in (False, True):
        if not last and rng.random() < 0.3:
            continue
        conv_out = out if last else channels()
        quantizer = build.nodes[
            build.nodes[y].inputs[0] if isinstance(build.nodes[y], nodes.MaxPoolNode) else y
        ]
        top = int(quantizer.levels[-1])
        window = build.window(build.sizes[y])
        if top * window.size[0] * window.size[1] * features >= 2**24:
            window = Window((1, 1))
        acc = build.conv(y, features, conv_out, window)
        bound = top * window.size[0] * window.size[1] * features
        features = conv_out
        if not last:
            y = build.thresholds(acc, conv_out, bound, min(2**14, 2**24 // (50 * 2 * conv_out)))
            if rng.random() < 0.1:
                build.requantize(acc, conv_out, bound)  # nobody reads it
    y = build.requantize(acc, out, bound)
    if build.sizes[y] == build.sizes[x] and out == c:
        shortcut = x
    else:
        before, after = build.sizes[first], build.sizes[y]
        strides = tuple(-(-n // m) for n, m in zip(before, after, strict=True))
        size = tuple(max(n - (m - 1) * s, 1) for n, m, s in zip(before, after, strides, strict=True))
        window = Window(size, strides)
        if (
            tuple(e.add for e in window.leaves(*(Extent(n, 0) for n in before))) != after
            or np.prod(size) > 64
        ):
            return y, out
        if strides[0] == strides[1] <= 2 and rng.random() < 0.8:
            centered = Window.centered((1, 1), strides[0])
            if tuple(e.add for e in centered.leaves(*(Extent(n, 0) for n in before))) == after:
                window = centered
        acc = build.conv(first, c, out, window)
        shortcut = build.requantize(acc, out, bound)
    if rng.random() < 0.2:
        return y, out
    x = build.add(nodes.AddNode(inputs=(y, shortcut) if rng.random() < 0.7 else (shortcut, y)))
    if rng.random() < 0.6:
        x = build.add(nodes.ReluNode(inputs=(x,)))
    return x, out
