"""A small network with every kind of layer."""

from flax import nnx

from qresnet_jax import nn


class Layers(nnx.Module):
    """Reads images `[N, 9, 6, 1]`. Levels are pooled, flattened, and read as sums, as a part of the stream and as features."""

    image_size = (9, 6)

    def __init__(self, rngs):
        self.stem = nn.StemConv(1, 6, (2, 3), 2, padding="VALID", rngs=rngs)
        self.norm, self.shift, self.act = nn.BatchNorm(6, rngs=rngs), nn.Shift(6, rngs=rngs), nn.PACT(2)
        self.depthwise = nn.BinaryConv(6, 6, 3, groups=6, rngs=rngs)
        self.again, self.other = nn.PACT(3), nn.BatchNorm(6, rngs=rngs)
        self.dense = nn.BinaryDense(3 * 2 * 12, 7, scale="channel", rngs=rngs)
        self.drop, self.last = nn.Dropout(0.2, rngs=rngs), nn.LSQ(4)
        self.head = nn.Classifier(7, 4, rngs=rngs)

    def __call__(self, images):
        levels = self.act(self.shift(nn.relu(self.norm(self.stem(images)))))
        stream = nn.concat(
            [self.other(levels), self.depthwise(nn.max_pool(levels, (2, 1), 1, ((1, 0), (0, 0))))]
        )
        x = self.again(nn.relu(nn.mean_pool(stream, (2, 1), 1)))
        return self.head(self.last(self.drop(self.dense(nn.flatten(x)))))
