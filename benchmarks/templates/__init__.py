"""Renders result files as Markdown: one small function for each table, and one for the figures of each file.

A function takes the measurements of its files, as dictionaries from key to measurement (see `results.py`), and returns
text. It computes nothing but what the text needs, such as a time for one image from that of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

from templates import accuracy, c_code, scaling, speed, wasm


class Table(NamedTuple):
    """A table. `render` is called with the measurements of each of the result files in `files`, in that order."""

    files: tuple[str, ...]
    render: Callable[..., str]


TABLES = {
    "results": Table(
        ("recipes_cifar10_jpeg", "accuracy_fashion_mnist", "accuracy_digits", "size", "zoo", "c_export"),
        accuracy.results,
    ),
    "accuracy_fashion_mnist": Table(("accuracy_fashion_mnist",), accuracy.accuracies),
    "accuracy_digits": Table(("accuracy_digits",), accuracy.accuracies),
    "hysteresis": Table(("hysteresis",), accuracy.hysteresis),
    "hysteresis_seeds": Table(("hysteresis",), accuracy.hysteresis_seeds),
    "hysteresis_cifar10_jpeg": Table(("hysteresis_cifar10_jpeg",), accuracy.hysteresis_means),
    "hysteresis_fashion_mnist": Table(("hysteresis_fashion_mnist",), accuracy.hysteresis_means),
    "recipes_cifar10_jpeg": Table(("recipes_cifar10_jpeg",), accuracy.recipes),
    "recipes_fashion_mnist": Table(("recipes_fashion_mnist",), accuracy.recipes),
    "zoo": Table(("zoo",), accuracy.zoo),
    "size": Table(("size",), accuracy.sizes),
    "inference": Table(("inference",), speed.inference),
    "inference_memory": Table(("inference",), speed.inference_memory),
    "train_step": Table(("train_step",), speed.train_step),
    "epochs": Table(("epochs",), speed.epochs),
    "memory": Table(("memory",), scaling.memory),
    "remat": Table(("memory",), scaling.remat),
    "scaling": Table(("scaling",), scaling.times),
    "exchange": Table(("scaling",), scaling.exchange),
    "pipeline": Table(("pipeline",), speed.pipeline),
    "sweep": Table(("sweep",), speed.sweep),
    "c_export": Table(("c_export",), c_code.times),
    "c_export_sizes": Table(("c_export",), c_code.sizes),
    "c_export_calls": Table(("c_export",), c_code.calls),
    "firmware": Table(("firmware",), c_code.firmware),
    "wasm": Table(("wasm",), wasm.times),
    "wasm_sizes": Table(("wasm",), wasm.sizes),
}

FIGURES = {  # result file -> a function that returns its figures for running prose, text by key
    "accuracy_fashion_mnist": accuracy.accuracy_figures,
    "accuracy_digits": accuracy.accuracy_figures,
    "hysteresis": accuracy.hysteresis_figures,
    "hysteresis_cifar10_jpeg": accuracy.hysteresis_figures,
    "hysteresis_fashion_mnist": accuracy.hysteresis_figures,
    "original_script": accuracy.original_script_figures,
    "zoo": accuracy.zoo_figures,
    "size": accuracy.size_figures,
    "inference": speed.inference_figures,
    "train_step": speed.train_step_figures,
    "startup": speed.startup_figures,
    "prediction": speed.prediction_figures,
    "epochs": speed.epochs_figures,
    "memory": scaling.memory_figures,
    "scaling": scaling.scaling_figures,
    "sweep": speed.sweep_figures,
    "c_export": c_code.c_figures,
    "firmware": c_code.firmware_figures,
    "wasm": wasm.wasm_figures,
}
