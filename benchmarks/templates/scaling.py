"""Renders the memory of a training step, what computing parts of it again costs, and how it scales over devices."""

from templates.cells import duration, markdown, percent, range_of, several, size
from templates.measurements import Measurements, figures, having, provenance, with_provenance

MEMORY = 16 * 2**30  # bytes of the device that the table is about


def memory(measurements: Measurements) -> str:
    """Returns, by network and value of `config.remat`, the bytes of an image and how many images fit."""
    rows = [("Network", "`config.remat`", "An image", "Fixed", "FLOPs of an image", "Images in 16 GiB")]
    runs = figures(measurements, what="sizes")
    for run in sorted(runs, key=lambda run: (run["size"], int(run["network"].partition("-")[2]))):
        title = f"{run['network']}, {run['size']}x{run['size']}" + " (extrapolated)" * run["extrapolated"]
        for remat, row in run["rows"].items():
            cells = (size(row["image_bytes"]), size(row["fixed_bytes"]), f"{row['image_flops'] / 1e9:.3g} G")
            rows.append((title, f"`{remat}`", *cells, f"{fitting(row):,}"))
    return with_provenance(markdown(*rows), provenance(having(measurements, what="sizes"), ("jax",)))


def fitting(row: dict) -> int:
    """Returns how many images fit into a device's memory, beside what is fixed."""
    return max(0, int((MEMORY - row["fixed_bytes"]) / row["image_bytes"]))


def memory_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `resnet_20_block_saved`, the share of an image's bytes, and `time_block`, a ratio."""
    found = {}
    for key, one in measurements.items():
        run = one["figures"]
        if run["what"] == "times":
            found |= {f"time_{remat}": f"{ratio['median']:.2f}" for remat, ratio in run["ratio"].items()}
        else:
            everything = run["rows"]["none"]["image_bytes"]
            for remat, row in run["rows"].items():
                found[f"{key}_{remat}"] = size(row["image_bytes"])
                found[f"{key}_{remat}_saved"] = percent(1 - row["image_bytes"] / everything, 0)
    return found


def remat(measurements: Measurements) -> str:
    """Returns the time of a step by value of `config.remat`."""
    rows = [("`config.remat`", "A step", "Times as long as with `none` (smallest to largest of the rounds)")]
    (run,) = figures(measurements, what="times")
    for name, seconds in run["seconds"].items():
        rows.append((f"`{name}`", duration(seconds["median"]), range_of(run["ratio"][name])))
    return with_provenance(
        markdown(*rows),
        f"{run['network']}, batch {run['batch']}, on {several(run['devices'], 'device')}.",
        provenance(having(measurements, what="times"), ("jax",)),
    )


def times(measurements: Measurements) -> str:
    """Returns the time of a step by number of virtual devices, for strong and weak scaling."""
    rows = [
        (
            "Scaling",
            "Devices",
            "Images in a batch",
            "A step",
            "Speed relative to one device (smallest to largest of the rounds)",
        )
    ]
    (run,) = figures(measurements, what="times")
    for row in run["rows"]:
        cells = (
            row["devices"],
            row["batch"],
            duration(row["seconds"]["median"]),
            range_of(row["efficiency"]),
        )
        rows.append((row["kind"], *cells))
    return with_provenance(markdown(*rows), provenance(having(measurements, what="times"), ("jax",)))


def exchange(measurements: Measurements) -> str:
    """Returns what devices exchange in a step, and the estimated time of that on several numbers of chips."""
    runs = figures(measurements, what="exchange")
    chips = [f"{one['chips']:,} GPUs" for one in runs[0]["chips"]]
    rows = [("Network", "Batch norm", "All-reduces", "Bytes", "Expected", *chips)]
    for run in runs:
        how = "over all devices" if run["sync_bn"] else "on each device alone"
        cells = (run["count"], f"{run['bytes']:,}", f"{run['expected']:,}")
        estimates = (duration(one["seconds"]) for one in run["chips"])
        rows.append((f"{run['network']}, {run['size']}x{run['size']}", how, *cells, *estimates))
    return with_provenance(markdown(*rows), provenance(having(measurements, what="exchange"), ("jax",)))


def scaling_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `resnet_20_sync_64`, the estimated time of the exchange on 64 GPUs, and `weak_8`."""
    found = {}
    for key, one in measurements.items():
        run = one["figures"]
        if run["what"] == "exchange":
            found[f"{key}_count"], found[f"{key}_bytes"] = f"{run['count']}", size(run["bytes"])
            found |= {f"{key}_{row['chips']}": duration(row["seconds"]) for row in run["chips"]}
        else:
            for row in run["rows"]:
                found[f"{row['kind']}_{row['devices']}"] = percent(row["efficiency"]["median"], 0)
    return found
