"""Renders the measurements of inference and of training time."""

from templates.cells import duration, listed, markdown, percent, range_of, ratio, several, size
from templates.measurements import Measurements, figures, provenance, with_provenance

ENGINES = {  # heading in the table of inference -> name in its file
    "onnxruntime, float32": "onnxruntime fp32",
    "onnxruntime, int8": "onnxruntime int8",
    '`engine="jax"`': "jax",
    '`engine="c"`': "c",
}


def inference(measurements: Measurements) -> str:
    """Returns the time of an image by batch size and engine, with the speed relative to onnxruntime in float32."""
    runs = figures(measurements)
    titles = [f"{run['network']}, {several(run['threads'], 'thread')}" for run in runs]
    only_one = len(runs) == 1  # its title stands below the table instead of in a column
    rows = [(*([] if only_one else ["Network"]), "Images in a call", *ENGINES)]
    for run, title in zip(runs, titles, strict=True):
        for batch in dict.fromkeys(row["batch"] for row in run["rows"]):
            of_engine = {row["engine"]: row for row in run["rows"] if row["batch"] == batch}
            cells = (_inference_cell(of_engine.get(key)) for key in ENGINES.values())
            rows.append((*([] if only_one else [title]), batch, *cells))
    return with_provenance(
        markdown(*rows),
        f"{titles[0]}: time" if only_one else "Time",
        "of one image, and how many times as fast that is as onnxruntime in float32.",
        provenance(measurements.values(), ("jax", "onnxruntime", "gcc")),
    )


def _inference_cell(row):
    if row is None:
        return "not measured"
    fraction = f"{ratio(row['ratio']['median'])} times"
    if row["seconds"] is None:
        return fraction
    per_image = duration(row["seconds"]["median"] / row["batch"])
    return per_image if row["engine"] == ENGINES["onnxruntime, float32"] else f"{per_image}, {fraction}"


def inference_memory(measurements: Measurements) -> str:
    """Returns, by engine, the peak memory of a process and what the calls add to it, at the largest batch size.

    It shows the first measurement, which is that of the largest network on one thread.
    """
    measurements = dict(list(measurements.items())[:1])
    rows = [("Engine", "Images in a call", "Memory that calls add", "Peak of the whole process")]
    shown = [
        (run, max((row["batch"] for row in run["rows"]), default=0), heading, engine)
        for run in figures(measurements)
        for heading, engine in ENGINES.items()
    ]
    for run, batch, heading, engine in shown:
        row = next((row for row in run["rows"] if (row["engine"], row["batch"]) == (engine, batch)), None)
        if row:
            rows.append((heading, batch, _mib(row["call_bytes"]), _mib(row["process_bytes"])))
    return with_provenance(markdown(*rows), provenance(measurements.values(), ("jax", "onnxruntime")))


def _mib(nbytes):
    if nbytes is None:
        return "not recorded"
    mib = nbytes / 2**20
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def inference_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `c_ratio_1` and `c_time_1` (the C engine with one image in a call), and the two limits."""
    run = figures(measurements)[0]
    found = {
        f"limit_{name}": duration(run["limits"][name])
        for name in ("sgemm", "popcount")
        if run["limits"][name]
    }
    for row in run["rows"]:
        key = row["engine"].replace("onnxruntime ", "onnxruntime_")
        found[f"{key}_ratio_{row['batch']}"] = ratio(row["ratio"]["median"])
        if row["seconds"]:
            found[f"{key}_time_{row['batch']}"] = duration(row["seconds"]["median"] / row["batch"])
        if row["call_bytes"] is not None:
            found[f"{key}_call_{row['batch']}"] = _mib(row["call_bytes"])
    return found


def train_step(measurements: Measurements) -> str:
    """Returns our time of a training step, PyTorch's, and the ratio."""
    rows = [("Threads", "qresnet_jax", "PyTorch", "Ratio (smallest to largest of the rounds)")]
    for run in figures(measurements):
        title = several(run["threads"], "thread")
        if run["devices"]:
            title += f", {several(run['devices'], 'device')}"
        seconds = (
            duration(run[side]["median"]) if run[side] else "not recorded" for side in ("ours", "pytorch")
        )
        known = run["ratio"]["min"] is not None
        rows.append((title, *seconds, range_of(run["ratio"]) if known else f"{run['ratio']['median']:.2f}"))
    return with_provenance(markdown(*rows), provenance(measurements.values(), ("jax", "torch")))


def train_step_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `ratio_1`, the ratio to PyTorch with one thread."""
    names = (
        (run, f"{run['threads']}" + ("_one_device" if run["devices"] else ""))
        for run in figures(measurements)
    )
    return {f"ratio_{name}": f"{run['ratio']['median']:.2f}" for run, name in names}


def prediction_figures(measurements: Measurements) -> dict[str, str]:
    """Returns the times of processes that predict once, `c` and `numpy`, or only import NumPy, `bare`, and `environment` in bytes."""
    (run,) = figures(measurements)
    found = {which: f"{run[which]['median']:.2f} s" for which in ("c", "numpy", "bare")}
    return {**found, "environment": size(sum(run["bytes"].values()))}


def startup_figures(measurements: Measurements) -> dict[str, str]:
    """Returns the time of a short training with a `warm` and with a `cold` compile cache."""
    (run,) = figures(measurements)
    return {name: _between(run[name]) for name in ("warm", "cold")}


def _between(spread):
    ends = dict.fromkeys(f"{spread[end]:.0f}" for end in ("min", "max"))
    return f"{' to '.join(ends)} s"


def epochs(measurements: Measurements) -> str:
    """Returns the time of all epochs of W1A2 and of the float twin, and the ratio."""
    runs = figures(measurements)
    counts = dict.fromkeys(f"{run['epochs']:,} epochs of {run['images']:,} images" for run in runs)
    rows = [(" or ".join(counts), "W1A2", "Float twin", "Ratio (smallest to largest of the rounds)")]
    for run in runs:
        cells = (
            f"{duration(run['epochs'] * run[net]['median'])} ({duration(run[net]['median'] / run['epoch_steps'])} a step)"
            for net in ("W1A2", "float")
        )
        rows.append((f"Batch {run['batch']}, {run['dtype']}", *cells, range_of(run["ratio"])))
    return with_provenance(markdown(*rows), provenance(measurements.values(), ("jax",)))


def epochs_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `total_128_float32` and `ratio_128_float32` of W1A2."""
    found = {}
    for run in figures(measurements):
        key = f"{run['batch']}_{run['dtype']}"
        found[f"total_{key}"] = duration(run["epochs"] * run["W1A2"]["median"])
        found[f"ratio_{key}"] = f"{run['ratio']['median']:.2f}"
        found[f"step_{key}"] = duration(run["W1A2"]["median"] / run["epoch_steps"])
    # How many times as fast an epoch is with batches of another size, as the device has more to do at once.
    runs = {(run["batch"], run["dtype"]): run["W1A2"]["median"] for run in figures(measurements)}
    for (batch, dtype), seconds in runs.items():
        if batch != 128 and (128, dtype) in runs:
            found[f"gain_{batch}_{dtype}"] = ratio(runs[128, dtype] / seconds)
    return found


def pipeline(measurements: Measurements) -> str:
    """Returns the speed of each decoder on one core, and of the whole pipeline by the number of workers."""
    (run,) = figures(measurements)
    sizes = list(run["decoders"])
    names = dict.fromkeys(name for size in sizes for name in run["decoders"][size])
    rows = [("Images a second and core", *sizes)]
    for name in names:
        found = (run["decoders"][size].get(name) for size in sizes)
        rows.append((name, *(f"{1 / one['median']:,.0f}" if one else "" for one in found)))
    speeds = [
        f"{several(int(workers), 'worker')} {speed['median']:,.0f} ({speed['min']:,.0f} to {speed['max']:,.0f})"
        for workers, speed in run["pipeline"].items()
    ]
    steps = [
        f"{percent(step['waiting'], 1)} of {duration(step['seconds']['median'])} with {several(int(workers), 'worker')}"
        for workers, step in run["step"].items()
    ]
    return with_provenance(
        markdown(*rows),
        "Decoding CIFAR-10-JPEG as it is, and side by side in files of the size of a photograph of ImageNet; the last row also cuts a "
        "random part out and resizes it to 224x224.",
        f"The whole pipeline on images scaled up to 224x224, on the clock of a machine with other work: {listed(speeds)} images a second.",
        f"A step of ResNet-18 on {run['batch']} of them, on the CPU, waits for its batch {listed(steps)}.",
        provenance(measurements.values(), ("jax", "numpy")),
    )


WAYS = {  # of training the runs of a sweep, by the name in the file
    "alone": "one after the other, each on all devices",
    "each": "one on each device",
    "vmap": "all at once, several on each device by `vmap`",
    "vmap_one": "all at once, on one device by `vmap`",
}


def sweep(measurements: Measurements) -> str:
    """Returns the time of a training step of one run in each way, and the gain over one after the other."""
    rows = [("Runs", "Trained", "A step of one run", "Gain (smallest to largest of the rounds)")]
    for run in figures(measurements):
        title = f"{run['runs']} x {run['network']}, batch {run['batch']}, {several(run['devices'], 'device')}"
        for way, words in WAYS.items():
            gain = range_of(run["gain"][way]) if way in run["gain"] else "1"
            rows.append((title, words, duration(run["seconds"][way]["median"]), gain))
    return with_provenance(markdown(*rows), provenance(measurements.values(), ("jax",)))


def sweep_figures(measurements: Measurements) -> dict[str, str]:
    """Returns the gains of the first measurement by way, such as `each`."""
    run = figures(measurements)[0]
    return {way: f"{gain['median']:.2f}" for way, gain in run["gain"].items()}
