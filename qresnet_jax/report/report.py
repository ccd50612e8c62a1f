"""Writes `report.md` and its pictures: the settings and results of a run, how it trained, and what each layer costs.

Everything comes from the workdir: the best checkpoint, `metrics.jsonl` and `train.log`. No data set is needed.
"""

import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import UserError
from qresnet_jax.nn.variables import BinaryKernel
from qresnet_jax.report import plots, weight_plots
from qresnet_jax.report.findings import findings, nothing_unusual
from qresnet_jax.report.style import png, series
from qresnet_jax.ship.costs import as_markdown, as_text, layer_table, network_table
from qresnet_jax.ship.fold import why_float
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import packed_bytes, read_packed
from qresnet_jax.system.files import as_path, write_all
from qresnet_jax.train.checkpoints.checkpoint import to_json
from qresnet_jax.train.checkpoints.resume import changed_fields
from qresnet_jax.train.evaluator import TrainedRun, fold_run, restore_run
from qresnet_jax.train.metrics.diagnostics import by_layer, latent_magnitudes, walked_layer
from qresnet_jax.train.metrics.records import FILE, IN_FLOAT, read_metrics

log = logging.getLogger("qresnet_jax")

REPORT = "report.md"
CAPTIONS = {
    "curves": "Loss and accuracy. The star marks the test set, at the checkpoint that was chosen.",
    "flips": "How signs move, by stage: the mean over the layers, and the range that they cover.",
    "hysteresis": "The weights that flip most among those that were recorded. Each keeps its sign until its latent "
    "weight has crossed {the_threshold}. The lines are shifted slightly to tell them apart.",
    "latents": "Latent weights by layer. {between}",
    "clipping": "Clipping levels of the activation quantizers.",
    "occupancy": "The share of a layer's activations at each level.",
}
# What the captions say with a hysteresis loop, and without.
_LOOP = {
    "the_threshold": "the threshold on the other side",
    "between": "Between the thresholds both signs occur, as a weight keeps its sign there.",
}
_NO_LOOP = {
    "the_threshold": "0",
    "between": "Without hysteresis each weight has the sign of its latent weight.",
}


def write_report(config: ConfigDict, workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `WORKDIR/report.md` and `WORKDIR/plots/*.png`, all of them or none.

    Args:
      config: any valid config; the run's own, in its checkpoint, is what counts.
      workdir: the directory of the run, which need not be complete.

    Returns:
      The path of `report.md`.

    Raises:
      UserError: the directory has no checkpoint or no metrics, or it cannot be written.
    """
    configs.validate(config)
    workdir = as_path(workdir)
    run = restore_run(config, workdir)
    config = run.config
    records = read_metrics(workdir / FILE)
    if not records:
        raise UserError(
            f"{workdir / FILE} is missing or empty, but a report needs it: give the --workdir of a run, or train again"
        )
    pictures = {name: fig for name, fig in _draw(config, run, records).items() if fig is not None}
    text = _markdown(config, run, records, workdir, list(pictures))
    files = {workdir / "plots" / f"{name}.png": png(fig) for name, fig in pictures.items()}
    files[workdir / REPORT] = text.encode()
    outdated = [workdir / "plots" / f"{name}.png" for name in CAPTIONS if name not in pictures]
    write_all(files, outdated)
    log.info("wrote %s and %d pictures", workdir / REPORT, len(pictures))
    return workdir / REPORT


def report_packed(path: str | os.PathLike[str], image_size: tuple[int, int] | None = None) -> str:
    """Returns the layer table of a packed file, for the console.

    Args:
      path: the path of the file, or the name of a zoo model.
      image_size: `(height, width)`; needed only if the network takes images of any size.

    Raises:
      PackedError: there is no such file, or it is no packed file that this version can read.
      UserError: the network takes images of any size, and `image_size` is not given.
    """
    network = read_packed(find_packed(path))
    if image_size is None and None in (network.height, network.width):
        raise UserError(
            f"{path} takes images of any size: give the height and width for which operations are to be counted"
        )
    return as_text(network_table(network, image_size), "weights")


def _draw(
    config: ConfigDict, run: TrainedRun, records: Sequence[Mapping[str, float]]
) -> dict[str, Figure | None]:
    """Returns the pictures by name, in the order of the report; None if the run has nothing to show."""
    loop = config.optim.hysteresis
    binary = bool(by_layer(run.state.params, BinaryKernel))
    latent, sign = (_kernels(run, field) if binary else {} for field in ("latent", "sign"))
    scale = jax.device_get(jax.jit(latent_magnitudes)(run.state.opt_state)) if binary else {}
    walk = {name: np.asarray(x) for name, x in run.state.walk.items()}
    layer = walked_layer(run.state.params) if binary else ""
    return {
        "curves": plots.curves(records),
        "flips": plots.flips(records),
        "hysteresis": weight_plots.hysteresis(walk, loop.threshold, loop.relative, layer),
        "latents": weight_plots.latents(latent, sign, scale, loop.threshold, loop.relative),
        "clipping": plots.clipping(records),
        "occupancy": plots.occupancy(records),
    }


def _kernels(run: TrainedRun, field: str) -> dict[str, np.ndarray]:
    """Returns a field of the hysteresis state by layer."""
    found = by_layer(optax.tree.get(run.state.opt_state, field), BinaryKernel)
    return {name: np.asarray(x) for name, x in found.items()}


def _markdown(
    config: ConfigDict,
    run: TrainedRun,
    records: Sequence[Mapping[str, float]],
    workdir: pathlib.Path,
    pictures: Sequence[str],
) -> str:
    model = run.model()
    network = fold_run(run) if why_float(model) is None else None
    loop = _LOOP if config.optim.hysteresis.threshold else _NO_LOOP
    table = layer_table(model, tuple(run.meta["image_shape"]), network)
    packed = None if network is None else len(packed_bytes(network))
    parts = [
        f"# {workdir.resolve().name}",
        _pairs(_results(run, records, packed) + _circumstances(workdir)),
        "## Worth knowing",
        "\n".join(f"- {sentence}" for sentence in _worth_knowing(records, config)),
        "## Settings",
        _settings(run.meta["config"]) + _changed_later(run, workdir),
        "## Pictures",
        *(f"![{name}](plots/{name}.png)\n\n{CAPTIONS[name].format(**loop)}" for name in pictures),
        "## Layers",
        as_markdown(table).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _worth_knowing(records: Sequence[Mapping[str, float]], config: ConfigDict) -> list[str]:
    return findings(records, config) or [nothing_unusual(records, config)]


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in pairs)])


def _results(
    run: TrainedRun, records: Sequence[Mapping[str, float]], packed: int | None
) -> list[tuple[str, str]]:
    last = max(record["step"] for record in records)
    pairs = [("Checkpoint", f"step {run.step:,}; metrics up to step {last:,}")]
    steps, accuracy = series([record for record in records if IN_FLOAT not in record], "eval_accuracy")
    if len(steps):
        best = len(accuracy) - 1 - int(np.argmax(accuracy[::-1]))  # the later of equals, as training chooses
        pairs.append(("Best validation accuracy", f"{100 * accuracy[best]:.2f} %, at step {steps[best]:,}"))
    _, tested = series(records, "test_accuracy")
    _, of_step = series(records, "test_of_step")
    if len(tested):
        pairs.append(
            ("Test accuracy", f"**{100 * tested[-1]:.2f} %**, of the checkpoint at step {int(of_step[-1]):,}")
        )
    else:
        pairs.append(("Test accuracy", "not measured: training is not complete"))
    if packed is None:
        pairs.append(("Packed file", "none: a float network has no integer form"))
    else:
        pairs.append(("Packed file", f"{packed:,} bytes, by `--mode=export`"))
    return pairs


def _circumstances(workdir: pathlib.Path) -> list[tuple[str, str]]:
    """Returns when the run trained, on which hardware and data, from `train.log`; [] if there is no such file."""
    path = workdir / "train.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    stamped = [
        m.groups() for m in map(re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d):\d\d (.*)").match, lines) if m
    ]
    if not stamped:
        return []
    pairs = [("Trained", f"{stamped[0][0]} to {stamped[-1][0]}")]
    for title, start in (("Hardware", "devices: "), ("Data", "data: "), ("Network", "network: ")):
        found = [text.removeprefix(start) for _, text in stamped if text.startswith(start)]
        pairs += [(title, found[-1])] if found else []
    return pairs


def _settings(saved: Mapping[str, object]) -> str:
    """Lists the fields that differ from the defaults, and then all others in a section that is folded away."""
    fields = configs.flatten(ConfigDict(saved))
    defaults = configs.flatten(ConfigDict(to_json(configs.default_config().to_dict())))
    changed = {name: value for name, value in fields.items() if value != defaults.get(name)}
    same = [(f"`{name}`", _code(value)) for name, value in fields.items() if name not in changed]
    rows = [
        (f"`{name}`", f"{_code(value)}, not {_code(defaults.get(name))}") for name, value in changed.items()
    ]
    text = _pairs(rows) if rows else "All are the defaults."
    return f"{text}\n\n<details><summary>Defaults</summary>\n\n{_pairs(same)}\n\n</details>"


def _changed_later(run: TrainedRun, workdir: pathlib.Path) -> str:
    """Returns a sentence on the settings with which the run went on after its best checkpoint; "" if they are the same."""
    path = workdir / "config.json"
    now = json.loads(path.read_text()) if path.exists() else run.meta["config"]
    changed = changed_fields(run.meta, {"config": now}).values()
    return (
        f"\n\nAfter this checkpoint the run went on with {', '.join(f'`{text}`' for text in changed)}."
        if changed
        else ""
    )


def _code(value: object) -> str:
    return f"`{value!r}`".replace("|", "\\|")
