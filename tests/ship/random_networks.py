"""Random networks: everything that `nodes.value_types` accepts."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.network import IntegerNetwork


class Builder:
    """Appends random nodes; positions of nodes are integers."""

    def __init__(self, rng, channels):
        self.rng, self.nodes, self.channels = rng, [], channels

    def add(self, node):
        self.nodes.append(node)
        return len(self.nodes) - 1

    def signs(self, *shape):
        return self.rng.choice(np.array([-1, 1], np.int8), shape)

    def kernel(self):
        sizes = self.rng.choice([1, 3, 3, 3, 5, 7], 2)
        return (sizes[0], sizes[0]) if self.rng.random() < 0.8 else tuple(sizes)

    def stem(self, out):
        kh, kw = self.kernel()
        reach = int(self.rng.choice([3, 100, 2**24 // (511 * kh * kw * self.channels)]))
        reach = min(reach, 2**24 // (511 * kh * kw * self.channels), 32767)
        return self.add(
            nodes.StemNode(
                weights=self.rng.integers(-reach, reach + 1, (kh, kw, self.channels, out)).astype(np.int16),
                double_mean=self.rng.integers(0, 511, self.channels).astype(np.int16),
                stride=int(self.rng.integers(1, 3)) if self.rng.random() < 0.5 else 1,
            )
        )

    def conv(self, x, features, out, stride=None, kernel=None):
        kh, kw = kernel or self.kernel()
        stride = stride or int(self.rng.integers(1, 3))
        return self.add(
            nodes.BinaryConvNode(inputs=(x,), signs=self.signs(kh, kw, features, out), stride=stride)
        )

    def thresholds(self, x, channels, bound, max_level=2**14):
        bits = int(self.rng.choice([1, 2, 2, 2, 2, 3, 4, 8]))
        n = 2**bits - 1 if self.rng.random() < 0.7 else int(self.rng.integers(1, 2**bits))
        n = min(n, max_level)
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
      ordinary: only 3x3 and 1x1 kernels and more channels, as trained networks have.
    """
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 21, 2).tolist()) if rng.random() < 0.7 else (int(rng.integers(21, 80)), 33)
    build = Builder(rng, int(rng.choice([1, 3, 4])))
    most = 40 if ordinary else 11

    def channels():
        return int(rng.integers(1, most))

    if ordinary:
        build.kernel = lambda: (3, 3)
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
        x = build.add(nodes.MaxPoolNode(inputs=(x,)))
    for _ in range(int(rng.integers(1, 4))):
        x, c = random_block(build, rng, x, c, channels)
    if rng.random() < 0.3:
        x = build.add(nodes.ReluNode(inputs=(build.requantize(x, c, 2**15),)))
    x = build.add(nodes.MeanPoolNode(inputs=(x,)))
    classes = int(rng.integers(1, 12))
    reach = min(2**30 // (2**15 * c), 32767)
    build.add(
        nodes.ClassifierNode(
            inputs=(x,),
            weights=rng.integers(-reach, reach + 1, (c, classes)).astype(np.int16),
            bias=rng.integers(-(2**29), 2**29, classes).astype(np.int32),
        )
    )
    free = rng.random() < 0.2
    height, width = (None, None) if free else size
    network = IntegerNetwork(tuple(build.nodes), 8, 0.5, height=height, width=width)
    return network, size


def random_block(build, rng, x, c, channels):
    """One or two convolutions beside a shortcut, which is what it can be; its position and channels."""
    out = c if rng.random() < 0.5 else channels()
    stride = 2 if rng.random() < 0.3 else 1
    first = build.thresholds(x, c, 2**15)
    y, features = first, c
    for last in (False, True):
        if not last and rng.random() < 0.3:
            continue
        conv_out = out if last else channels()
        top = int(build.nodes[y].levels[-1])
        kernel = build.kernel()
        acc = build.conv(y, features, conv_out, stride if last else 1, kernel)
        bound = top * kernel[0] * kernel[1] * features
        features = conv_out
        if not last:
            y = build.thresholds(acc, conv_out, bound, min(2**14, 2**24 // (50 * 2 * conv_out)))
            if rng.random() < 0.1:
                build.requantize(acc, conv_out, bound)  # nobody reads it
    y = build.requantize(acc, out, bound)
    if stride == 1 and out == c:
        shortcut = x
    else:
        acc = build.conv(first, c, out, stride, (1, 1))
        shortcut = build.requantize(acc, out, bound)
    if rng.random() < 0.2:
        return y, out
    x = build.add(nodes.AddNode(inputs=(y, shortcut) if rng.random() < 0.7 else (shortcut, y)))
    if rng.random() < 0.6:
        x = build.add(nodes.ReluNode(inputs=(x,)))
    return x, out
