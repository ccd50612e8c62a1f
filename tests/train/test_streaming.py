"""Runs on a set that stays on the disk, against the same runs on it in memory."""

import copy

import jax
import numpy as np
import pytest

from qresnet_jax.data import load_dataset, prepare_dataset
from qresnet_jax.data.order import epoch_order
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from qresnet_jax.train.evaluator import evaluate_checkpoint
from qresnet_jax.train.feed import StreamingFeed
from qresnet_jax.train.loop import train_and_evaluate
from qresnet_jax.train.parallel import device_mesh
from tests.data.set_cases import write_mnist
from tests.train.processes.groups import FLAGS, Group
from tests.train.tiny_runs import FLOAT, configuration, lines, without_speed


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    root = tmp_path_factory.mktemp("mnist")
    write_mnist(root / "raw", n=50, n_test=21)
    fields = {"name": "mnist", "data_dir": str(root / "data"), "raw_dir": str(root / "raw"), "workers": 0}
    config = configuration(**FLOAT, **{f"data.{name}": value for name, value in fields.items()})
    config.data.flip, config.data.crop_padding, config.model.num_classes = True, 2, 10
    prepare_dataset(config.data)
    return config


def changed(config, **changes):
    config = copy.deepcopy(config)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.mark.parametrize("devices", [1, 4])
def test_the_feed_gives_each_device_its_rows_of_every_batch(mnist, devices):
    data = load_dataset(changed(mnist, data__streaming=True).data)
    held = load_dataset(changed(mnist, data__streaming=False).data)
    assert data.train.num_images == 45 and data.validation.num_images == 5
    np.testing.assert_array_equal(data.mean, held.mean)
    feed = StreamingFeed(data, mnist, device_mesh(jax.devices()[:devices]), 9)
    try:
        for step in (0, 1, 2, 3, 8, 2):  # it may also go elsewhere
            batch = feed(step)
            chosen = [epoch_order(0, step // 3, 45)[i % 45] for i in range(step % 3 * 16, step % 3 * 16 + 16)]
            np.testing.assert_array_equal(batch.images, held.train.images[chosen])
            np.testing.assert_array_equal(batch.labels, held.train.labels[chosen])
            assert len(batch.images.addressable_shards) == devices
        np.testing.assert_array_equal(feed.sample, (held.train.images - held.mean.astype(np.float32)) / 64)
    finally:
        feed.close()


def test_a_streamed_run_gives_the_losses_of_one_in_memory_to_the_bit_and_either_continues_the_other(
    mnist, tmp_path
):
    devices = jax.devices()[:2]
    for streaming, name in ((False, "held"), (True, "streamed")):
        train_and_evaluate(
            changed(mnist, num_epochs=1, data__streaming=streaming), tmp_path / name, devices=devices
        )
    held, streamed = (without_speed(lines(tmp_path / name)) for name in ("held", "streamed"))
    assert held == streamed and len(held) == 2
    with Checkpoints(tmp_path / "streamed", read_only=True) as checkpoints:
        assert checkpoints.meta(checkpoints.latest_step)["next_image"] == 3 * 16
    for streaming, name in ((True, "held"), (False, "streamed")):
        train_and_evaluate(
            changed(
                mnist, num_epochs=2, data__streaming=streaming, parallel="pmap" if streaming else "shard_map"
            ),
            tmp_path / name,
            devices=devices,
        )
    held, streamed = (without_speed(lines(tmp_path / name)) for name in ("held", "streamed"))
    assert held == streamed
    config = changed(mnist, data__streaming=True)
    assert (
        evaluate_checkpoint(config, tmp_path / "held", devices=devices)["test_accuracy"]
        == held[-1]["test_accuracy"]
    )


@pytest.mark.slow  # the rows that a process reads are tested above; this starts three processes and their workers
def test_processes_that_read_their_own_rows_learn_what_one_process_learns_in_memory(
    mnist, run_main, tmp_path
):
    fields = ("name", "data_dir", "raw_dir", "flip", "crop_padding")
    flags = [f"--config.data.{name}={mnist.data[name]}" for name in fields]
    flags += ["--config.batch_size=16", "--config.num_epochs=2"]
    streamed = [*flags, "--config.data.streaming=True", "--config.data.workers=1"]
    with Group(tmp_path / "logs", 2, *streamed, f"--workdir={tmp_path / 'shared'}") as group:
        assert group.wait() == {0: 0, 1: 0}, group.logs()
    workdir = tmp_path / "alone"
    result = run_main(*FLAGS, *flags, f"--workdir={workdir}", "--config.data.streaming=False", devices=4)
    assert result.returncode == 0, result.stderr
    assert without_speed(lines(tmp_path / "shared")) == without_speed(lines(workdir))
