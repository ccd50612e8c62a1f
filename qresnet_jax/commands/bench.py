"""`--mode=bench`: measures how fast each engine predicts, beside the same network in float."""

import logging
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import UserError
from qresnet_jax.ship.costs import network_table, summary, totals
from qresnet_jax.ship.jax.float_baseline import float_baseline
from qresnet_jax.ship.load import ENGINES, PackedNetwork, load_packed
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import packed_bytes
from qresnet_jax.system.tables import aligned
from qresnet_jax.train.evaluator import fold_run, restore_run

log = logging.getLogger("qresnet_jax")

FEWEST_CALLS = 5  # of each engine at each batch size, after two calls that are not counted
MOST_CALLS = 500

Engine = Callable[[np.ndarray], np.ndarray]
Row = dict[str, Any]


def bench(config: ConfigDict, workdir: str | os.PathLike[str]) -> list[Row]:
    """Measures and logs latency and throughput of every engine at several batch sizes, beside the float twin in XLA.

    The engines take turns call by call, so that other work on the machine disturbs all of them alike.

    Args:
      config: `packed` is the path of a packed file or the name of a zoo model, or "" for the run in `workdir`;
        `bench.batch_sizes` are numbers of images, and `bench.seconds` is the time for each engine and batch size.
      workdir: the directory of the run.

    Returns:
      A row for each engine and batch size: `engine`, `batch`, `p50` and `p99` (milliseconds for a batch),
      `images_per_second`, `ratio`, the float twin's median time divided by the engine's, and `auto`, whether
      `load_packed` takes this engine by default.

    Raises:
      UserError: there is no such run or file, or the network takes images of any size.
    """
    configs.validate(config)
    network = (
        load_packed(config.packed, "numpy").network
        if config.packed
        else fold_run(restore_run(config, workdir))
    )
    shape = _image_shape(network)
    log.info("%s\n", summary(totals(network_table(network)), "weights"))
    engines = _engines(network, shape)
    usual = PackedNetwork(network, len(packed_bytes(network)))
    rows: list[Row] = []
    for batch in config.bench.batch_sizes:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (batch, *shape), np.uint8)
        with warnings.catch_warnings(action="ignore"):  # where it cannot take "c", that has been logged
            usual.logits(images)
        measured = _measure(engines, images, config.bench.seconds)
        rows += [{**row, "auto": row["engine"] == usual.engine} for row in measured]
    log.info(as_text(rows))
    return rows


def _image_shape(network: IntegerNetwork) -> tuple[int, int, int]:
    height, width, channels = network.image_shape
    if height is None or width is None:
        raise UserError("this network takes images of any size: to time it, fold it with an image_shape")
    return height, width, channels


def _engines(network: IntegerNetwork, shape: tuple[int, int, int]) -> dict[str, Engine]:
    """Returns the engines that work on this machine, and the float twin; logs why other engines do not work."""
    size, found = len(packed_bytes(network)), {}
    image = np.zeros((1, *shape), np.uint8)
    for name in ENGINES:
        engine = PackedNetwork(network, size, name).logits
        try:
            engine(image)
        except UserError as error:
            log.info("engine %s is left out: %s", name, error)
        else:
            found[name] = engine
    twin = float_baseline(network)
    return {**found, FLOAT: lambda images: np.asarray(twin(images))}


FLOAT = "float32 (XLA)"


def _measure(engines: dict[str, Engine], images: np.ndarray, seconds: float) -> list[Row]:
    times: dict[str, list[float]] = {name: [] for name in engines}
    for run in engines.values():
        for _ in range(2):  # compiles, then settles
            run(images)
    until = time.perf_counter() + seconds * len(engines)
    while len(times[FLOAT]) < FEWEST_CALLS or (
        time.perf_counter() < until and len(times[FLOAT]) < MOST_CALLS
    ):
        for name, run in engines.items():
            start = time.perf_counter()
            run(images)
            times[name].append(time.perf_counter() - start)
    float_time = np.median(times[FLOAT])
    return [
        {
            "engine": name,
            "batch": len(images),
            "p50": 1e3 * float(np.median(t)),
            "p99": 1e3 * float(np.percentile(t, 99)),
            "images_per_second": len(images) / float(np.median(t)),
            "ratio": float(float_time / np.median(t)),
        }
        for name, t in times.items()
    ]


def as_text(rows: list[Row]) -> str:
    """Returns the rows as a table for the console."""
    head = ("engine", "batch", "p50 ms", "p99 ms", "images/s", "times as fast as float32")
    cells = [
        (
            row["engine"] + " (auto)" * row["auto"],
            f"{row['batch']}",
            f"{row['p50']:.3f}",
            f"{row['p99']:.3f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
        )
        for row in rows
    ]
    return "\n".join(aligned([head, *cells]))
