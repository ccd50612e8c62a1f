"""A recording is what a network computes; what has no integer form is refused, by the name of the module."""

import jax.numpy as jnp
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.errors import ExportError
from qresnet_jax.nn.recording import record


class Net(nnx.Module):
    """One layer of each kind, and in the middle whatever a test wants."""

    def __init__(self, middle=lambda x: x):
        rngs = nnx.Rngs(0)
        self.stem, self.norm, self.act = (
            nn.StemConv(1, 4, 3, rngs=rngs),
            nn.BatchNorm(4, rngs=rngs),
            nn.PACT(2),
        )
        self.conv, self.head = nn.BinaryConv(4, 6, 3, 2, rngs=rngs), nn.Classifier(6, 3, rngs=rngs)
        self.middle = middle
        self.eval()

    def __call__(self, x):
        x = self.act(nn.relu(self.norm(self.stem(x))))
        return self.head(nn.global_mean(nn.to_stream(self.middle(self.conv(x)), 6)))


def test_each_call_is_a_step_with_its_inputs_and_its_result():
    net = Net()
    steps = record(net, (8, 10, 1))
    assert [step.path for step in steps] == ["stem", "norm", "", "act", "conv", "", "", "head"]
    assert [step.inputs for step in steps] == [(-1,), (0,), (1,), (2,), (3,), (4,), (5,), (6,)]
    assert steps[2].operation is nn.relu and steps[4].operation is net.conv
    assert steps[5].options == {"fraction_bits": 6}
    assert [type(step.result).__name__ for step in steps[:6]] == [
        *("Sums", "Sums", "Sums", "Levels", "Sums", "Stream")
    ]
    assert steps[4].result.shape == (1, 4, 5, 6) and steps[4].result.bound == 3 * 9 * 4


def test_values_may_have_several_readers():
    class Twice(Net):
        def __call__(self, x):
            x = nn.to_stream(self.norm(self.stem(x)))
            return self.head(nn.global_mean(self.conv(self.act(x)) + self.conv(self.act(x))))

    steps = record(Twice(), (8, 8, 1))
    readers = [i for i, step in enumerate(steps) if 2 in step.inputs]
    assert len(readers) == 2


@pytest.mark.parametrize(
    "middle, what",
    [
        (lambda x: jnp.abs(x), "an operation of jax.numpy"),
        (lambda x: x * 2, r"`\*`"),
        (lambda x: -x, "`-`"),
        (lambda x: x[:, ::2], r"`\[\]`"),
        (lambda x: x.mean((1, 2)), "`.mean`"),
        (lambda x: x or x, "a branch"),
        (lambda x: nnx.relu(x), "an operation of jax.numpy"),
    ],
)
def test_what_has_no_integer_form_is_refused_by_the_name_of_its_module(middle, what):
    class Inner(nnx.Module):
        def __call__(self, x):
            return middle(x)

    with pytest.raises(ExportError, match=f"^middle uses {what}.*qresnet_jax.nn"):
        record(Net(Inner()), (8, 8, 1))


def test_a_layer_that_is_no_attribute_is_refused():
    stray = nn.BatchNorm(6, rngs=nnx.Rngs(0))
    with pytest.raises(ExportError, match="the network calls a BatchNorm that is not one of its attributes"):
        record(Net(lambda x: stray(x)), (8, 8, 1))


def test_a_network_returns_the_result_of_its_last_layer():
    class Other(Net):
        def __call__(self, x):
            super().__call__(x)
            return jnp.zeros(3)

    with pytest.raises(ExportError, match="must return the result of its last layer"):
        record(Other(), (8, 8, 1))
