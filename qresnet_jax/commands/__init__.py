"""Lists the modes of the command line: what each does and writes, examples, and the function that it calls.

Each function takes `(config, workdir)`, and that of a sweep more. Its module is imported only when the mode runs, so that
`--help` and the refusal of a wrong config do not wait for JAX.
"""

import dataclasses
import importlib
import os
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Command:
    """Holds one mode of the command line.

    Args:
      function: `module.function`, inside this package.
      does: what it does, in one or two sentences for `--help`.
      writes: a sentence that names every file that it writes.
      examples: command lines without the program's name.
      takes_packed: whether it can work on a packed file (`--config.packed`) instead of a run.
      trains: whether it does training steps, for which the process is set up differently.
      takes_processes: whether several processes (`--config.distributed`) can do it together.
    """

    function: str
    does: str
    writes: str
    examples: tuple[str, ...]
    takes_packed: bool = True
    trains: bool = False
    takes_processes: bool = False

    def __call__(self, config: ConfigDict, workdir: str | os.PathLike[str], **options: Any) -> Any:
        """Imports the function, calls it, and returns its result."""
        module, _, name = self.function.rpartition(".")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)(config, workdir, **options)


COMMANDS = {
    "train": Command(
        function="train.train",
        does="Trains a network, tests the checkpoint with the best validation accuracy, and writes a report. After an "
        "interruption, the same command continues the run.",
        writes="Writes config.json, train.log, metrics.jsonl, TensorBoard event files, checkpoints/, report.md and "
        "plots/ into the run's directory.",
        examples=("--config=digits", "--config=digits --config.num_epochs=20 --workdir=runs/short"),
        takes_packed=False,
        trains=True,
        takes_processes=True,
    ),
    "sweep": Command(
        function="sweep.run.sweep",
        does="Trains the config with several seeds, and with every combination of the values of a grid, and compares "
        "the results by their validation accuracy. --seeds=5 means the seeds 0 to 4, and --seeds=0,3 these two; each "
        "--grid names a field and its values, as in --grid config.model.act_bits='(1,1,1),(2,2,2)'. The same command "
        "continues after an interruption, and with other seeds or values it adds to the sweep.",
        writes="Writes sweep.json, sweep.md and sweep.png into --workdir, by default runs/NAME_sweep, and each run "
        "into a directory of its own there.",
        examples=(
            "sweep --config=digits --seeds=5",
            "sweep --config=digits --seeds=3 --grid config.optim.learning_rate=0.05,0.1",
        ),
        takes_packed=False,
        trains=True,
    ),
    "eval": Command(
        function="evaluate.evaluate",
        does="Measures a run's best checkpoint, or a packed file, on the test set.",
        writes="Writes nothing; prints the accuracy.",
        examples=(
            "--config=digits --mode=eval",
            "--config=digits --mode=eval --config.packed=digits_resnet8_w1a2",
        ),
        takes_processes=True,
    ),
    "predict": Command(
        function="predict.predict_files",
        does="Classifies the image files in --config.predict.images (files, directories and patterns, separated by "
        "commas) with a run's best checkpoint or with a packed file.",
        writes="Writes nothing; prints the three most probable classes of each image.",
        examples=(
            "--config=digits --mode=predict --config.predict.images=one.png,two.jpg",
            "--config=digits --mode=predict --config.predict.images='photos,scans/**/*.png'",
        ),
    ),
    "export": Command(
        function="export.export",
        does="Folds a run's best checkpoint into an integer network, writes it, and keeps the files only if they "
        "compute the same. --config.export.format is packed (the default), "
        "c, onnx, qonnx, stablehlo or wasm. With --config.packed it converts a packed file.",
        writes="Writes model.safetensors, a directory model_c, model.onnx, model.qonnx.onnx, model.stablehlo or a directory "
        "model_wasm into the run's directory, or else writes --config.export.path.",
        examples=("--config=digits --mode=export", "--config=digits --mode=export --config.export.format=c"),
    ),
    "bench": Command(
        function="bench.bench",
        does="Measures how fast every engine predicts with a run's integer network or a packed file, beside the same "
        "network in float.",
        writes="Writes nothing; prints a table.",
        examples=("--config=digits --mode=bench --config.packed=digits_resnet8_w1a2",),
    ),
    "profile": Command(
        function="profile.profile",
        does="Compiles the training step of the config and runs it for --config.profile.steps steps under JAX's "
        "profiler, from random weights on the config's data set. It shows which operations take the time, the memory of "
        "a device, and the FLOP/s beside the measured peak of the devices. A run in the directory is neither read nor "
        "changed.",
        writes="Writes profile/profile.json and a trace into the run's directory. Open the trace, profile/**/*.trace.json.gz, at "
        "ui.perfetto.dev, or show the directory by xprof --logdir=runs/NAME/profile.",
        examples=(
            "--config=digits --mode=profile",
            "--config=digits --mode=profile --config.profile.steps=50",
        ),
        takes_packed=False,
        trains=True,
    ),
    "report": Command(
        function="report.report",
        does="Reports on a run, which need not be complete: its settings, its results, pictures, and what each layer "
        "costs. For a packed file it prints the table of layers.",
        writes="Writes report.md and plots/*.png into the run's directory; for a packed file, nothing.",
        examples=("--config=digits --mode=report",),
    ),
    "prepare_data": Command(
        function="prepare_data.prepare_data",
        does="Downloads and prepares the data set of the config, or prepares it from the archives or the folder of "
        "images in --config.data.raw_dir.",
        writes="Writes the data set into --config.data.data_dir, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.",
        examples=(
            "--config=cifar10_w1a2 --mode=prepare_data --config.data.raw_dir=downloads",
            "--config=folder --mode=prepare_data --config.data.raw_dir=photos.zip",
        ),
        takes_packed=False,
    ),
}
