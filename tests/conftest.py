"""The surroundings of all tests: CPU, 8 virtual devices, a compilation cache in the clone, and the command as a process."""

import functools
import gc
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

REPO = pathlib.Path(__file__).parents[1]

# Before JAX is imported. Tests that need one device say so; what a jitted function computes on is one in any case.
DEVICES = "--xla_force_host_platform_device_count={}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XDG_CACHE_HOME", str(REPO / ".cache"))
# JAX writes its cache's files in place: each parallel worker has its own, so that none reads a half-written one.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(REPO / ".cache" / "jax")),
    os.environ.get("PYTEST_XDIST_WORKER", ""),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if DEVICES.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES.format(8)}".strip()

# Files that take longest come first, so that no parallel worker is left alone with one at the end.
LONGEST = (
    "test_processes.py",
    "test_interrupted_runs.py",
    "test_loop.py",
    "test_wheel.py",
    "test_parallel.py",
    "test_docs.py",
    "test_resnet.py",
)

KEPT = ("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


def pytest_collection_modifyitems(items):
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish():
    """Collects garbage less often: JAX makes and keeps millions of objects, which each collection visits."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


MAIN = (sys.executable, str(REPO / "main.py"))


def _command(program, args, devices, env):
    kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("JAX_")}
    environment = {
        **kept,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": DEVICES.format(devices),
        "PYTHONUNBUFFERED": "1",
    }
    return [*map(str, program), *map(str, args)], {**environment, **env}


@pytest.fixture(scope="session")
def run_main():
    """`run_main(*args, devices=1, cwd=REPO, program=MAIN, **env)` runs `python main.py args`, or another program.

    Returns the finished process, with text in stdout and stderr.
    """

    def run(*args, devices=1, cwd=REPO, program=MAIN, **env):
        command, environment = _command(program, args, devices, env)
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def start_main():
    """`start_main(*args, devices=1, cwd=REPO, **env)` starts `python main.py args`, which the test's end kills if need be."""
    started = []

    def start(*args, devices=1, cwd=REPO, **env):
        command, environment = _command(MAIN, args, devices, env)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home directory of the user; the current directory is another one, and empty."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@functools.cache
def _model(**changes):
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from qresnet_jax import create_model, default_config
    from qresnet_jax.nn.norm import BatchNorm

    config = default_config().model
    with config.ignore_type():  # tuples of another length
        config.update(changes)
    model = create_model(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for _, part in nnx.iter_modules(model):
        if isinstance(part, BatchNorm):
            part.mean[...] = jnp.float32(rng.normal(0, 0.3, part.mean.shape))
            part.scale[...] = jnp.float32(rng.normal(0.5, 1, part.mean.shape))
            part.bias[...] = jnp.float32(rng.normal(0.3, 0.5, part.mean.shape))
    return model


@pytest.fixture
def make_model():
    """`make_model(**changes of config.model)`: a network with the statistics of a trained one, made once."""
    return _model


@pytest.fixture(scope="session", autouse=True)
def temporary_directory(tmp_path_factory):
    """Where the tests, and what they start, leave temporary files, as tensorflow-datasets does; pytest removes it."""
    directory = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", directory)
        yield


@pytest.fixture(scope="session")
def compiler():
    """The name of a C compiler; skips where there is none."""
    found = next(filter(shutil.which, ("gcc", "clang", "cc")), None)
    if found is None:
        pytest.skip("there is no C compiler")
    return found


@pytest.fixture(scope="session")
def wasm_tools():
    """The programs that make WebAssembly; skips where there are none."""
    from qresnet_jax.errors import CompilerError
    from qresnet_jax.ship.wasm.build import find_tools

    try:
        return find_tools()
    except CompilerError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def package_log():
    """Training sends the package's log to its workdir's file; each test begins with a log that goes nowhere else."""
    log = logging.getLogger("qresnet_jax")
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    yield log
    for handler in set(log.handlers) - set(handlers):
        handler.close()
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
