"""Renders the measurements of the exported C code: its sizes, its times, and what takes the time."""

from templates.cells import duration, markdown, percent, ratio, size
from templates.measurements import Measurements, figures, having, provenance, with_provenance


def sizes(measurements: Measurements) -> str:
    """Returns the sizes of the code, of its constants, of the buffer and of the stack."""
    (run,) = figures(measurements, what="sizes")
    targets = list(dict.fromkeys(target for row in run["rows"] for target in row["text"]))
    rows = [("Network", "Profile", "Constants", *(f"`{target}`" for target in targets), "Buffer", "Stack")]
    for row in run["rows"]:
        text = (size(row["text"][target]) if target in row["text"] else "not measured" for target in targets)
        ends = (size(row[name]) for name in ("buffer", "stack"))
        rows.append((row["network"], f"`{row['profile']}`", size(row["constants"]), *text, *ends))
    return with_provenance(
        markdown(*rows),
        "Under a compiler stands the size of the section `.text`, which holds code and constants.",
        provenance(having(measurements, what="sizes"), ("gcc",)),
    )


def times(measurements: Measurements) -> str:
    """Returns the time of a call with one image, by network, profile and compiler."""
    (run,) = figures(measurements, what="times")
    head = ("Network", "Code", "Compiler", "Median", "Minimum", "Ratio of the medians", "Ratio of the minima")
    rows = [head]
    for row in run["rows"]:
        command = f"`{row['command']}`" if row["command"] else ""
        limits = (duration(row["seconds"][name]) for name in ("median", "min"))
        ratios = (ratio(row["ratio"][name]) for name in ("median", "min"))
        rows.append((row["network"], row["code"], command, *limits, *ratios))
    return with_provenance(
        markdown(*rows),
        "Ratio: how many times as fast as onnxruntime in float32.",
        provenance(having(measurements, what="times"), ("onnxruntime", "gcc", "clang")),
    )


def calls(measurements: Measurements) -> str:
    """Returns the parts of the time of an image, a column for each variant of the code."""
    runs = figures(measurements, what="calls")
    parts = dict.fromkeys(part for run in runs for part in run["parts"])
    together = [f", {run['images']} images at once" * (run["images"] > 1) for run in runs]
    names = [f"{run['code']}{x}, `{run['command']}`" for run, x in zip(runs, together, strict=True)]
    rows = [("Part", *names)]
    for part in parts:
        found = [(run["parts"].get(part, 0), run["seconds"]) for run in runs]
        rows.append(
            (part, *(f"{duration(share * t)}, {percent(share, 0)}" if share else "" for share, t in found))
        )
    rows.append(("all", *(duration(run["seconds"]) for run in runs)))
    compilers = dict.fromkeys(run["command"].split()[0] for run in runs)
    return with_provenance(markdown(*rows), provenance(having(measurements, what="calls"), compilers))


def firmware(measurements: Measurements) -> str:
    """Returns how many instructions an image takes on microcontrollers, and flash and RAM."""
    head = (
        "Network",
        "Profile",
        "Processor",
        "Compiler",
        "Instructions",
        "For a multiplication",
        "`.text`",
        "Buffer",
        "Stack",
    )
    rows = [head]
    (run,) = figures(measurements, what="firmware")
    for row in run["rows"]:
        count = (f"{row['instructions'] / 1e6:.2f} M", f"{row['instructions'] / row['multiplications']:.2f}")
        ends = (size(row[name]) for name in ("text", "buffer", "stack"))
        rows.append(
            (row["network"], f"`{row['profile']}`", row["target"], f"`{row['command']}`", *count, *ends)
        )
    return with_provenance(
        markdown(*rows),
        "Executed instructions for one image. `.text` holds code and constants; RAM is the buffer and the stack.",
        provenance(having(measurements, what="firmware"), ("arm-none-eabi-gcc",)),
    )


def firmware_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `resnet_8_small_cortex_m4_o2_instructions`, of instructions, sizes and RAM."""
    found = {}
    (run,) = figures(measurements, what="firmware")
    for row in run["rows"]:
        level = row["command"].split()[-1]
        key = _identifier(f"{row['network'].split(',')[0]} {row['profile']} {row['target']} {level}")
        found[f"{key}_instructions"] = f"{row['instructions'] / 1e6:.1f} M"
        found[f"{key}_rate"] = f"{row['instructions'] / row['multiplications']:.2f}"
        found[f"{key}_flash"] = size(row["text"])
        found[f"{key}_ram"] = size(row["buffer"] + row["stack"])
        least = row["instructions"] / 120e3  # milliseconds at 120 MHz
        found[f"{key}_time"] = f"{least:.0f} to {1.5 * least:.0f} ms"
    return found


def c_figures(measurements: Measurements) -> dict[str, str]:
    """Returns figures such as `resnet_20_fast_avx_512_gcc_ratio`; the names say network, code and compiler."""
    found = {}
    for run in figures(measurements, what="times"):
        for row in run["rows"]:
            key = _identifier(f"{row['network'].split(',')[0]} {row['code']} {row['command']}")
            found[f"{key}_ratio"] = ratio(row["ratio"]["median"])
            found[f"{key}_time"] = duration(row["seconds"]["median"])
    for run in figures(measurements, what="calls"):
        if run["images"] > 1:
            found["adder_instructions"] = f"{2 * run['full_adders']:,.0f}"  # parity and majority
            found["adder_time"] = duration(run["full_adders"] / 3e9)
    for run in figures(measurements, what="sizes"):
        for row in run["rows"]:
            key = _identifier(f"{row['network'].split(',')[0]} {row['profile']}")
            found |= {f"{key}_{name}": size(row[name]) for name in ("constants", "buffer", "stack")}
        found["fast_stack"] = size(max(row["stack"] for row in run["rows"] if row["profile"] == "fast"))
    return found


def _identifier(text):
    """Joins words by underscores, for the name of a figure."""
    return "_".join("".join(c.lower() if c.isalnum() else " " for c in text).split())
