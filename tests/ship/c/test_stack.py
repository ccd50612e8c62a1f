import shutil
import subprocess

import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.c import engine
from qresnet_jax.ship.c.fast.stack import IMAGES, stack
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed
from tests.ship.c.test_writer import SANITIZE, STRICT
from tests.ship.random_networks import random_network

PROGRAM = """
#include "model.c"
#include <stdio.h>

int main(void)
{
    static uint8_t images[MODEL_MANY * MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS], buffer[MODEL_BUFFER_BYTES];
    int32_t logits[MODEL_MANY * MODEL_CLASSES];
    const size_t n = fread(images, MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS, MODEL_MANY, stdin);
    model_logits_many(images, (uint32_t)n, logits, buffer);
    return fwrite(logits, sizeof *logits * MODEL_CLASSES, n, stdout) != n;
}
"""


def stacked(seeds):
    """Seeds of random networks with steps that run for several images at once."""
    return [seed for seed in seeds if stack(plan(*flat(seed))) is not None]


def flat(seed):
    network, size = random_network(seed, ordinary=seed % 3 == 0)
    return network, *size


@pytest.mark.parametrize("seed", range(40))
def test_the_steps_find_all_that_they_read(seed):
    planned = plan(*flat(seed))
    together = stack(planned)
    if together is None:
        return
    first, end = together.first, together.end
    assert together.plan.steps == planned.steps[first:end] and IMAGES > 1
    before, after = (
        {step.result for step in steps} for steps in (planned.steps[:first], planned.steps[first:end])
    )
    assert before.issuperset(together.inputs) and (before | after).issuperset(together.outputs)
    known = set(together.inputs)
    for step in together.plan.steps:
        assert step.source >= 0 and known.issuperset(step.operands)
        known.add(step.result)
    assert known.issuperset(together.outputs)
    # What later steps read comes from there, as the results of one image are overwritten by those of the next.
    assert set(together.outputs).issuperset(
        x for step in planned.steps[end:] for x in step.operands if x in before | after
    )


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("fashion_mnist_resnet20_w1a2", {nodes.ThresholdsNode, nodes.RequantizeNode}),
        ("digits_resnet8_w1a2", {nodes.ThresholdsNode, nodes.RequantizeNode}),
        ("digits_vgg_small_w1a2", {nodes.ThresholdsNode, nodes.MaxPoolNode}),
    ],
)
def test_layers_with_small_planes_run_together(name, kinds):
    network = read_packed(find_packed(name))
    planned = plan(network, network.height, network.width)
    together = stack(planned)
    assert {type(step.last) for step in together.plan.steps} >= kinds
    alone = [*planned.steps[: together.first], *planned.steps[together.end :]]
    large = [
        step for step in alone if isinstance(step.conv, nodes.BinaryConvNode) and not planned.is_dense(step)
    ]
    assert all(planned.size(step.result).height > 14 for step in large)
    assert len(large) < len(together.plan.steps)


def test_other_networks_run_image_by_image():
    seed = next(seed for seed in range(60) if seed not in stacked(range(60)))
    network, height, width = flat(seed)
    alone, together = (c_files(network, height=height, width=width, many=many) for many in (False, True))
    assert alone == together and "MODEL_MANY" not in together["model.h"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("vector", [8, 64])
@pytest.mark.parametrize(
    "seed", [*stacked(range(6)), *(pytest.param(i, marks=pytest.mark.slow) for i in stacked(range(6, 12)))]
)
def test_many_images_have_the_logits_of_each(seed, vector, make_images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native = ["-march=native"] if vector > 8 else ["-DMODEL_VECTOR=8"]
    monkeypatch.setattr(engine, "FLAGS", ("-std=c99", "-O1", *native, "-shared", "-fPIC"))
    monkeypatch.setattr(engine, "processors", lambda: 1)
    network, *size = flat(seed)
    images = make_images(IMAGES + IMAGES // 2 + 1 + 2, (*size, network.channels))
    for n in (len(images), IMAGES // 2 + 1, 1):  # whole, in part, none of them together
        np.testing.assert_array_equal(
            engine.logits(network, images[:n]), reference.logits(network, images[:n])
        )


def check(seed, make_images, tmp_path, compiler, flags):
    network, height, width = flat(seed)
    files = c_files(network, height=height, width=width, many=True) | {"program.c": PROGRAM}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    subprocess.run(
        [compiler, *STRICT, *flags, "program.c", "-o", "program"], cwd=tmp_path, check=True, timeout=300
    )
    images = make_images(IMAGES - 1, (height, width, network.channels))
    done = subprocess.run(
        ["./program"], cwd=tmp_path, input=images.tobytes(), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    logits = np.frombuffer(done.stdout, np.int32).reshape(len(images), -1)
    np.testing.assert_array_equal(logits, reference.logits(network, images))


@pytest.mark.parametrize("seed", [1, 3])
def test_many_images_are_defined(seed, make_images, tmp_path, compiler):
    compiler = "clang" if shutil.which("clang") else compiler
    check(seed, make_images, tmp_path, compiler, SANITIZE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", stacked(range(12, 150)))
def test_many_images_of_many_networks_are_exact_and_defined(seed, make_images, tmp_path, compiler):
    plain = ["-DMODEL_VECTOR=8"] * (seed % 2)
    check(seed, make_images, tmp_path, compiler, [*SANITIZE, *plain])
