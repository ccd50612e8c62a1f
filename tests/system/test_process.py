"""The command restarts itself with other settings of the allocator where it trains on a CPU, and nowhere else."""

import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

import qresnet_jax.__main__ as program
from qresnet_jax.commands import COMMANDS, Command
from qresnet_jax.config import default_config
from qresnet_jax.system import process

REPO = pathlib.Path(__file__).parents[2]
# Prints a line for each start of the process: the settings with which it started and those that a child gets.
PROGRAM = """
import os, sys
from qresnet_jax.system.process import restart_with_large_pages
restart_with_large_pages()
started = dict(p.split("=", 1) for p in open("/proc/self/environ").read().split("\\0") if p)
print(os.getpid(), started.get("GLIBC_TUNABLES"), os.environ.get("GLIBC_TUNABLES"), sys.argv, flush=True)
os.system("echo ${GLIBC_TUNABLES-nothing}")
"""


@pytest.fixture
def bare(monkeypatch):
    """An environment that says nothing about the platform, and an installation without plugins."""
    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return monkeypatch


def test_without_a_plugin_there_is_only_the_cpu(bare):
    assert process.will_use_cpu()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": "cpu,cuda"}, True),  # the first is the one that JAX computes on
        ({"JAX_PLATFORMS": "cuda,cpu"}, False),
        ({"JAX_PLATFORMS": "tpu"}, False),
        ({"JAX_PLATFORMS": ""}, True),
        ({"JAX_PLATFORM_NAME": "CPU"}, True),
        ({"JAX_PLATFORM_NAME": "gpu"}, False),
        ({"PJRT_NAMES_AND_LIBRARY_PATHS": "mine:/mine.so"}, False),
        ({"TPU_LIBRARY_PATH": "/libtpu.so"}, False),
    ],
)
def test_variables_say_the_platform(bare, variables, expected):
    for name, value in variables.items():
        bare.setenv(name, value)
    assert process.will_use_cpu() is expected


@pytest.mark.parametrize("kind", ["package", "entry point", "TPU"])
def test_a_plugin_may_find_an_accelerator_unless_the_cpu_is_named(bare, tmp_path, kind):
    (tmp_path / "xla_cuda12.py").write_text("")
    package = importlib.machinery.ModuleSpec("jax_plugins", None, is_package=True)
    package.submodule_search_locations.append(str(tmp_path))
    found = {"package": {"jax_plugins": package}, "TPU": {"libtpu": package}}.get(kind, {})
    bare.setattr(importlib.util, "find_spec", found.get)
    if kind == "entry point":
        bare.setattr(importlib.metadata, "entry_points", lambda group: [group])
    assert not process.will_use_cpu()
    bare.setenv("JAX_PLATFORMS", "cpu")
    assert process.will_use_cpu()


def started(**variables):
    """The lines that `PROGRAM` prints."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    environment = {**kept, "PYTHONPATH": str(REPO), **variables}
    command = [sys.executable, "-c", PROGRAM, "--a", "b c"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


needs_glibc = pytest.mark.skipif(not process._has_glibc(), reason="needs Linux with glibc")


@needs_glibc
def test_a_process_restarts_once_with_its_arguments_and_children_inherit_nothing():
    line, child = started(JAX_PLATFORMS="cpu")
    _, settings, left, arguments = line.split(" ", 3)
    assert settings == "glibc.malloc.hugetlb=1"  # glibc ends each setting in place, in what /proc shows
    assert (left, arguments, child) == ("None", "['-c', '--a', 'b c']", "nothing")


@needs_glibc
@pytest.mark.parametrize(
    ("variables", "inherited"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "nothing"),
        ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}, ""),
        ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, "glibc.malloc.arena_max=2"),
    ],
)
def test_on_an_accelerator_or_with_settings_of_the_users_own_it_does_not(variables, inherited):
    line, child = started(**variables)
    given = variables.get("GLIBC_TUNABLES")
    assert line.split(" ")[1:3] == [str(given), str(given)] and child == inherited


def test_a_program_that_has_imported_jax_is_not_restarted(bare):
    bare.setitem(sys.modules, "jax", None)
    bare.delenv("GLIBC_TUNABLES", raising=False)
    bare.setattr(os, "execve", None)
    process.restart_with_large_pages()


@pytest.mark.parametrize("mode", COMMANDS)
def test_only_training_restarts(mode, monkeypatch):
    called, config = [], default_config()
    monkeypatch.setattr(program, "CONFIG", SimpleNamespace(value=config))
    monkeypatch.setattr(program, "MODE", SimpleNamespace(value=mode))
    monkeypatch.setattr(program, "WORKDIR", SimpleNamespace(value="none"))
    monkeypatch.setattr(program, "_mode", lambda _: mode)
    monkeypatch.setattr(program, "_options", lambda _: {})
    monkeypatch.setattr(program, "_name_of_config", lambda: "digits")
    monkeypatch.setattr(program, "restart_with_large_pages", lambda: called.append("restart"))
    for name in ("log_to_standard_output", "cache_compilations"):
        monkeypatch.setattr(program, name, lambda: None)
    monkeypatch.setattr(Command, "__call__", lambda *_: called.append("command"))
    program.main(["qresnet"])
    assert called == (["restart"] if mode in ("train", "sweep", "profile") else []) + ["command"]


_WRITES = """
import logging, os, sys
from qresnet_jax.system.process import log_to_standard_output
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
os.close(writer)
log_to_standard_output()
for _ in range(3):
    logging.getLogger("qresnet_jax").info("nobody reads this")
print("nor this", flush=True)
print("the end", file=sys.stderr)
"""


def test_a_reader_that_has_closed_the_pipe_stops_nothing_and_no_traceback_is_shown():
    done = subprocess.run([sys.executable, "-c", _WRITES], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "the end\n")


def test_other_errors_of_the_log_are_shown(capsys, monkeypatch):
    handler = process.StandardOutput()
    monkeypatch.setattr(handler, "format", lambda _: 1 / 0)
    handler.handle(logging.LogRecord("", logging.INFO, "", 0, "", (), None))
    assert "ZeroDivisionError" in capsys.readouterr().err
