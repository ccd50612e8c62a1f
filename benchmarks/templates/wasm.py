"""Renders the measurements of the export for browsers: its sizes and its times."""

from templates.cells import duration, markdown, ratio, size
from templates.measurements import Measurements, figures, having, provenance, with_provenance


def sizes(measurements: Measurements) -> str:
    """Returns the bytes of `model.wasm`, as it is and compressed, beside those of the packed file."""
    (run,) = figures(measurements, what="sizes")
    rows = [("Network", "Packed file", "`model.wasm`", "the same, gzipped")]
    for row in run["rows"]:
        rows.append((row["network"], *(size(row[name]) for name in ("packed", "wasm", "gzip"))))
    static = " and ".join(f"`{name}` {size(n)}" for name, n in run["static_gzip"].items())
    return with_provenance(
        markdown(*rows),
        f"Both builds are in `model.wasm`. Gzipped, {static} come on top.",
        f"Compiled by {run['compiler']}.",
        provenance(having(measurements, what="sizes")),
    )


def times(measurements: Measurements) -> str:
    """Returns the time of a call with one image under Node.js, and of the same network as C for this machine."""
    (run,) = figures(measurements, what="times")
    rows = [("Network", "Code", "Median", "Minimum", "Ratio of the medians", "Ratio of the minima")]
    for row in run["rows"]:
        limits = (duration(row["seconds"][name]) for name in ("median", "min"))
        ratios = (ratio(row["ratio"][name]) for name in ("median", "min"))
        rows.append((row["network"], row["code"], *limits, *ratios))
    return with_provenance(
        markdown(*rows),
        "Ratio: how many times as long as native C takes.",
        f"Node.js {run['node']}; compiled by {run['compiler']}.",
        provenance(having(measurements, what="times"), ("gcc",)),
    )


def wasm_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `resnet_20_gzip`, `resnet_20_ratio` and `digits_time`, those with vectors."""
    found = {}
    for run in figures(measurements, what="sizes"):
        for row in run["rows"]:
            if row["network"].startswith("ResNet-20"):
                found |= {f"resnet_20_{name}": size(row[name]) for name in ("wasm", "gzip")}
    for run in figures(measurements, what="times"):
        for row in run["rows"]:
            if row["code"].endswith("with vectors"):
                key = "resnet_20" if row["network"].startswith("ResNet-20") else "digits"
                found[f"{key}_time"] = duration(row["seconds"]["median"])
                found[f"{key}_ratio"] = ratio(row["ratio"]["min"])
    return found
