"""Trains and evaluates networks with 1-bit weights and low-bit activations.

python main.py --config=configs/digits.py [--workdir=DIR] [--mode=train|eval|predict|export|bench|report|prepare_data] [--config.a.b=value ...]
"""

import itertools
import logging
import os
import pathlib
import sys
import threading

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from qresnet_jax import config as configs
from qresnet_jax.errors import UserError
from qresnet_jax.system.cache import cache_directory
from qresnet_jax.system.machine import processors

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config(), such as configs/digits.py.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; runs/NAME for configs/NAME.py by default."
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "predict", "export", "bench", "report", "prepare_data"],
    "train: train, or go on, then test, then report. eval: test a run's best checkpoint. predict: classify the image "
    "files in --config.predict.images. export: write the integer network. bench: time all engines. report: write report.md "
    "and plots/ of a run. prepare_data: make the data set ready. All but train take a packed file with --config.packed.",
)


def train(config, workdir):
    _restart_with_large_pages()
    from qresnet_jax import train_and_evaluate
    from qresnet_jax.train.interrupt import StopSignal
    from qresnet_jax.train.parallel import cores_as_devices

    cores_as_devices(config.batch_size)
    metrics = train_and_evaluate(config, workdir)
    if "test_accuracy" in metrics:  # not after an interruption
        with StopSignal():
            try:
                report(config, workdir)
            except UserError as error:  # the training itself is done
                logging.getLogger("qresnet_jax").warning("no report: %s", error)


def evaluate(config, workdir):
    from qresnet_jax.train.evaluator import evaluate_checkpoint, evaluate_packed

    evaluate_packed(config) if config.packed else evaluate_checkpoint(config, workdir)


def predict(config, workdir):
    from qresnet_jax.commands.predict import predict_files

    predict_files(config, workdir)


def export(config, workdir):
    from qresnet_jax.commands.export import export_packed, export_run

    export_packed(config, workdir) if config.packed else export_run(config, workdir)


def bench(config, workdir):
    from qresnet_jax.commands.bench import bench

    bench(config, workdir)


def report(config, workdir):
    from qresnet_jax.report.report import report_packed, write_report

    if config.packed:
        logging.getLogger("qresnet_jax").info(report_packed(config.packed))
    else:
        write_report(config, workdir)


def prepare_data(config, workdir):
    from qresnet_jax.data import prepare_dataset

    logging.getLogger("qresnet_jax").info("the data set is ready in %s", prepare_dataset(config.data))


MODES = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "bench": bench,
    "report": report,
    "prepare_data": prepare_data,
}


def main(argv):
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options begin with --")
    if CONFIG.value is None:
        raise UserError("which config? Give one, for example --config=configs/digits.py")
    config = CONFIG.value
    configs.validate(config)
    if config.packed and MODE.value in ("train", "prepare_data"):
        raise UserError(f"--config.packed has no use in --mode={MODE.value}: leave it out")
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    _log_to_standard_output()
    if MODE.value != "prepare_data":
        _cache_compilations()
    MODES[MODE.value](config, WORKDIR.value or os.path.join("runs", name))


def _restart_with_large_pages():
    """Makes glibc keep and reuse large buffers, in large pages, which it reads at a process's start only.

    Otherwise each training step on a CPU maps and zeroes its buffers anew, up to half of its time.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        # One arena, as those of other threads map each large buffer anew.
        settings = ("hugetlb=1", "arena_max=1", f"mmap_threshold={2**32}", f"trim_threshold={2**33}")
        os.environ["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{setting}" for setting in settings)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _log_to_standard_output():
    log = logging.getLogger("qresnet_jax")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(logging.StreamHandler(sys.stdout))
    # Orbax warns of what it was told to do, and prints its threads' tracebacks of failures that our messages tell.
    absl_logging.set_verbosity(absl_logging.FATAL)


def _cache_compilations():
    import jax

    if jax.config.jax_compilation_cache_dir:
        return
    # XLA divides the work over the processors when it compiles, which JAX's keys of the cache leave out.
    try:
        directory = cache_directory(f"jax_{processors()}_processors")
    except UserError as error:  # only slower
        logging.getLogger("qresnet_jax").warning("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Hundreds of small functions build a network: 7 seconds without the cache.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def parse(argv):
    _check_config_file(argv)
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None:
            CONFIG.value.items()  # a file that failed to load reports it at the first use
        return rest
    except (AttributeError, KeyError, IndexError) as error:
        # From ml_collections, for a field that does not exist.
        text = (
            str(error)
            .replace("\\n", ". ")
            .replace("\n", ". ")
            .replace("\\", "")
            .replace("'", "")
            .replace('"', "")
        )
        hint = "; a tuple is given whole, as in --config.model.act_bits='(2,2,4)'" if "index" in text else ""
        raise UserError(f"a --config field that does not exist: {text}{hint}") from error
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _check_config_file(argv):
    """What ml_collections says of a file that is not there, or not a config, names no way out."""
    given = [flag.removeprefix("--config=") for flag in argv if flag.startswith("--config=")]
    given += [value for flag, value in itertools.pairwise(argv) if flag == "--config"]
    advice = "give one such as --config=configs/digits.py"
    for path in (pathlib.Path(name.split(":")[0]) for name in given if name):
        if not path.is_file():
            raise UserError(f"there is no config file {path}: {advice}")
        if "get_config" not in path.read_text(errors="replace"):
            raise UserError(f"{path} is no config, as it has no function get_config: {advice}")


def _ignore_given_up_reads():
    """Of a damaged checkpoint Orbax abandons reads in other threads, whose complaints would bury our message."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    usual = sys.unraisablehook
    sys.unraisablehook = lambda event: "Event loop is closed" in str(event.exc_value) or usual(event)


def run():
    _ignore_given_up_reads()
    try:
        app.run(main, flags_parser=parse)
    except SystemExit as done:
        asked = {"--help", "-help", "--helpfull", "--helpshort"} & set(sys.argv)
        sys.exit(0 if asked else done.code)  # absl calls help a failure
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if threading.active_count() > 1:
            os._exit(2)  # reads that Orbax has begun in other threads would complain at being cut off
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
