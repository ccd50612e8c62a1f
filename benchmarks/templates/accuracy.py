"""Renders accuracies and sizes: trained networks, the hysteresis loop, the zoo, and the summary of the README."""

from collections.abc import Mapping

from templates.cells import accuracy, markdown, percent, ratio, size
from templates.measurements import Measurements, figures, having, provenance, with_provenance

BINARY, FLOAT = "W1A2", "float"
SOFTWARE = ("jax",)


def accuracies(measurements: Measurements) -> str:
    """Returns validation and test accuracy of runs; the runs of a row differ only in the seed."""
    rows = [("Network", "Epochs", "Seeds", "Validation", "Test", "Worst test", "Date", "Command")]
    for one in measurements.values():
        run, commands = one["figures"], " and ".join(f"`{line}`" for line in one["command"])
        worst = "not recorded" if run["test"]["worst"] is None else percent(run["test"]["worst"])
        accuracies = (accuracy(run["validation"]), accuracy(run["test"]), worst)
        rows.append((run["network"], run["epochs"], _seeds(run["seeds"]), *accuracies, one["date"], commands))
    return with_provenance(
        markdown(*rows),
        "Mean over the seeds ± sample standard deviation, where there are several.",
        provenance(measurements.values(), SOFTWARE, commands=False),
    )


def recipes(measurements: Measurements) -> str:
    """Returns the rows of an ablation: those with the same network and epochs together, the best validation first."""
    head = (
        *("Network", "Epochs", "Recipe", "Seeds", "Validation", "Test", "Below float"),
        *("Flips of a weight", "Never flipped", "Training"),
    )
    rows = [head]
    runs = sorted(figures(measurements), key=lambda run: -run["validation"]["mean"])
    for run in sorted(runs, key=lambda run: (run["layers"], run["epochs"])):
        signs = run["signs"]
        moved = (f"{signs['flips']:.2f}", percent(signs["never_flipped"], 1)) if signs else ("", "")
        rows.append(
            (
                f"ResNet-{run['layers']} {run['network']}",
                run["epochs"],
                run["label"],
                _seeds(run["seeds"]),
                accuracy(run["validation"]),
                accuracy(run["test"]),
                _loss(run, runs),
                *moved,
                f"{run['seconds'] / 60:.0f} min",
            )
        )
    return with_provenance(
        markdown(*rows),
        "Below float: points of test accuracy that the mean lies below that of the best float network with as many layers "
        "and epochs.",
        provenance(measurements.values(), SOFTWARE, commands=False),
    )


def _loss(run, runs):
    """Returns the points of test accuracy that a run loses to its float twin; "" if there is none."""
    if run["network"] == FLOAT:
        return ""
    twins = [
        twin["test"]["mean"]
        for twin in runs
        if twin["network"] == FLOAT and (twin["layers"], twin["epochs"]) == (run["layers"], run["epochs"])
    ]
    return f"{100 * (max(twins) - run['test']['mean']):.1f}" if twins else ""


def _seeds(seeds):
    consecutive = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if consecutive else ", ".join(map(str, seeds))


def accuracy_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `w1a2_test` and `float_test`, of the rows that the summary of the README shows."""
    found = {}
    for network in (BINARY, FLOAT):
        if run := best(measurements, network):
            name = network.lower()
            found |= {f"{name}_{split}": accuracy(run[split]) for split in ("validation", "test")}
            found[f"{name}_test_mean"] = percent(run["test"]["mean"])
            found[f"{name}_epochs"], found[f"{name}_seeds"] = str(run["epochs"]), _seeds(run["seeds"])
            if run["test"]["sd"] is not None:
                found[f"{name}_test_sd"] = f"{100 * run['test']['sd']:.2f}"
            if run["test"]["worst"] is not None:
                found[f"{name}_test_worst"] = percent(run["test"]["worst"])
    return found


def original_script_figures(measurements: Measurements) -> dict[str, str]:
    """Returns `fashion_mnist_test`, the accuracy that a port of the original script reaches on Fashion-MNIST."""
    return {f"{key}_test": percent(one["figures"]["test"], 1) for key, one in measurements.items()}


def best(measurements: Measurements, network: str) -> Mapping | None:
    """Returns the figures of the row with the best validation accuracy, or None if no row has one.

    For the float twin, only rows with as many epochs as the best row of W1A2 count, and of them the one with the best test
    accuracy: what W1A2 loses is then not made smaller by the choice.
    """
    rows = [run for run in figures(measurements, network=network) if run["validation"]]
    split = "validation"
    if network == FLOAT and (quantized := best(measurements, BINARY)):
        rows, split = [run for run in rows if run["epochs"] == quantized["epochs"]], "test"
    return max(rows, key=lambda run: run[split]["mean"], default=None)


# The hysteresis loop.


def _threshold(run):
    if not run["threshold"]:
        return "0, plain sign"
    return f"{run['threshold']:g}, {'relative' if run['relative'] else 'absolute'}"


def _movement(run):
    signs = run["signs"]
    shares = (percent(signs[kind], 1) for kind in ("dead_band", "held_back", "never_flipped"))
    return f"{signs['flips']:.2f}", *shares


def _by_threshold(shown, about, *, movement):
    """Renders measurements with a row for each threshold; `about` says what the accuracies are."""
    head = ("Threshold", "Seeds", "Validation", "Test")
    rows = [(*head, "Flips of a weight", "Dead band", "Held back", "Never flipped") if movement else head]
    for run in (one["figures"] for one in shown):
        cells = (_threshold(run), _seeds(run["seeds"]), accuracy(run["validation"]), accuracy(run["test"]))
        rows.append((*cells, *_movement(run)) if movement else cells)
    return with_provenance(markdown(*rows), about, provenance(shown, SOFTWARE))


def hysteresis(measurements: Measurements) -> str:
    """Returns accuracy and movement of the signs by threshold, with one seed each."""
    shown = [one for one in measurements.values() if len(one["figures"]["seeds"]) == 1]
    return _by_threshold(shown, "One seed each.", movement=True)


def hysteresis_means(measurements: Measurements) -> str:
    """Returns accuracy and movement of the signs by threshold, each over its seeds."""
    about = "Mean ± sample standard deviation, or one seed."
    return _by_threshold(list(measurements.values()), about, movement=True)


def hysteresis_seeds(measurements: Measurements) -> str:
    """Returns accuracy by threshold over several seeds."""
    shown = [one for one in measurements.values() if len(one["figures"]["seeds"]) > 1]
    return _by_threshold(shown, "Mean ± sample standard deviation.", movement=False)


def hysteresis_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `validation_0.1_relative` of one seed, or `validation_0.1_relative_seeds` of several."""
    found = {}
    for run in figures(measurements):
        kind = ("_relative" if run["relative"] else "_absolute") if run["threshold"] else ""
        key = f"{run['threshold']:g}{kind}{'_seeds' if len(run['seeds']) > 1 else ''}"
        found |= {f"{split}_{key}": accuracy(run[split]) for split in ("validation", "test")}
        if run["signs"]:
            found[f"flips_{key}"] = f"{run['signs']['flips']:.2f}"
            kinds = ("dead_band", "held_back", "never_flipped")
            found |= {f"{kind}_{key}": percent(run["signs"][kind], 1) for kind in kinds}
    return found


# The zoo, and sizes.


def zoo(measurements: Measurements) -> str:
    """Returns the test accuracy and the size of the packed files that come with the package."""
    rows = [("Name", "Data set", "Test accuracy", "Bytes", "Trained by")]
    for name, one in measurements.items():
        run = one["figures"]
        shown = f"{percent(run['accuracy'])} of {run['images']:,} images"
        rows.append((f"`{name}`", f"`{run['data']}`", shown, f"{run['bytes']:,}", run["trained_by"]))
    return with_provenance(markdown(*rows), provenance(measurements.values(), ("jax", "numpy")))


def zoo_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `digits_resnet8_w1a2_accuracy` and `digits_resnet8_w1a2_bytes`."""
    found = {}
    for name, run in ((name, one["figures"]) for name, one in measurements.items()):
        found[f"{name}_accuracy"] = percent(run["accuracy"])
        found[f"{name}_bytes"] = f"{run['bytes']:,}"
    return found


def sizes(measurements: Measurements) -> str:
    """Returns parameters, sizes and multiplications of the networks."""
    head = (
        *("Network", "Parameters", "Binary", "As float32", "Packed file", "Times smaller"),
        *("MACs of an image", "Binary MACs"),
    )
    rows = [head]
    for run in figures(measurements):
        times_smaller = ratio(run["float_bytes"] / run["packed_bytes"])
        rows.append(
            (
                run["network"],
                f"{run['parameters']:,}",
                f"{run['binary_parameters']:,}",
                size(run["float_bytes"]),
                size(run["packed_bytes"]),
                times_smaller,
                f"{run['macs'] / 1e6:.1f} M",
                percent(run["binary_macs"] / run["macs"], 1),
            )
        )
    sentences = ("Clipping levels are not counted.", provenance(measurements.values(), SOFTWARE))
    return with_provenance(markdown(*rows), *sentences)


def size_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `resnet20_parameters` and `resnet20_packed`; names begin with the measurement's key."""
    found = {}
    for key, run in ((key, one["figures"]) for key, one in measurements.items()):
        found[f"{key}_parameters"] = f"{run['parameters']:,}"
        found[f"{key}_binary_parameters"] = f"{run['binary_parameters']:,}"
        found[f"{key}_float32"] = size(run["float_bytes"])
        found[f"{key}_packed"] = size(run["packed_bytes"])
        found[f"{key}_times_smaller"] = ratio(run["float_bytes"] / run["packed_bytes"])
        found[f"{key}_macs"] = f"{run['macs'] / 1e6:.1f} million"
        found[f"{key}_binary_macs"] = percent(run["binary_macs"] / run["macs"], 1)
    return found


# The summary.

# The row of the C code that the summary shows.
NATIVE = {"code": "`fast`", "command": "gcc -O3 -march=native"}
# Title, key in `size`, and how the names in `zoo` and in `c_export` begin; in the order of the files of accuracies.
TASKS = (
    ("CIFAR-10-JPEG, ResNet-20", "resnet20", "cifar10_jpeg_resnet20", "ResNet-20"),
    ("Fashion-MNIST, ResNet-20", "fashion_mnist", "fashion_mnist_", "ResNet-20"),
    ("digits, ResNet-8", "digits", "digits_", "digits"),
)


def results(cifar10_jpeg, fashion_mnist, digits, size_of, zoo_of, c_export) -> str:
    """Returns a line for each task: accuracy in float and with W1A2, size, and speed compared with onnxruntime."""
    head = (
        *("Task and network", "Float accuracy", "W1A2 accuracy", "As float32", "Packed file"),
        *("Images/s on one core", "Times as fast as onnxruntime float32"),
    )
    rows, trained = [head], []
    (speed,) = having(c_export, what="times")
    of_20_layers = {key: one for key, one in cifar10_jpeg.items() if one["figures"]["layers"] == 20}
    for task, measured in zip(TASKS, (of_20_layers, fashion_mnist, digits), strict=True):
        title, key, prefix, network = task
        tests = [_test(best(measured, kind)) for kind in (FLOAT, BINARY)]
        trained += [
            one
            for one in measured.values()
            if one["figures"] in (best(measured, FLOAT), best(measured, BINARY))
        ]
        packed = next(one["figures"]["bytes"] for name, one in zoo_of.items() if name.startswith(prefix))
        c_row = _native_row(speed["figures"]["rows"], network)
        rows.append(
            (
                title,
                *tests,
                size(size_of[key]["figures"]["float_bytes"]),
                f"{packed:,} bytes",
                f"{1 / c_row['seconds']['median']:,.0f}",
                ratio(c_row["ratio"]["median"]),
            )
        )
    return with_provenance(
        markdown(*rows),
        "Test accuracy of the recipe with the best validation accuracy, and of the best float network with as many epochs: mean ± "
        "sample standard deviation over several seeds, or one seed. Speed: the exported C code, one "
        "image a call; that of ResNet-20 is for 32x32x3 images.",
        provenance(trained, SOFTWARE, commands=False, about="Accuracy"),
        provenance([speed], ("onnxruntime", "gcc"), about="Speed"),
    )


def _test(run):
    return accuracy(run and run["test"])


def _native_row(rows, network):
    return next(
        row
        for row in rows
        if row["network"].startswith(network)
        and row["code"].startswith(NATIVE["code"])
        and row["command"] == NATIVE["command"]
    )
