import dataclasses
import gc
import itertools
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref

import numpy as np
import pytest

from qresnet_jax.errors import CompilerError, UserError
from qresnet_jax.ship import reference
from qresnet_jax.ship.c import engine as c_engine
from qresnet_jax.ship.geometry import Window

needs_compiler = pytest.mark.usefixtures("compiler")


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(module_cache, monkeypatch):
    """The cache directory of this module's tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(module_cache))
    monkeypatch.delenv("CC", raising=False)
    return module_cache / "qresnet_jax" / "c"


@pytest.fixture
def quickly(monkeypatch):
    """Compiles small code, which takes a fraction of the time, where its speed does not matter."""
    monkeypatch.setattr(c_engine, "FLAGS", ("-std=c99", "-Os", "-shared", "-fPIC"))


@needs_compiler
def test_the_integers_are_those_of_the_reference(trained, make_images):
    _, network = trained
    images = make_images(9, (network.height, network.width, network.channels))
    logits = c_engine.logits(network, images)
    assert logits.dtype == np.int32
    np.testing.assert_array_equal(logits, reference.logits(network, images))


@needs_compiler
@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("cores", [1, 3, 7])
def test_threads_and_batches_do_not_matter(n, cores, trained_named, make_images, monkeypatch):
    _, network = trained_named("basic pact")
    monkeypatch.setattr(c_engine, "processors", lambda: cores)
    images = make_images(50, (8, 8, 3))[:n]
    np.testing.assert_array_equal(c_engine.logits(network, images), reference.logits(network, images))


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_images_need_not_be_contiguous(trained_named, make_images):
    _, network = trained_named("basic pact")
    images = make_images(6, (8, 8, 3))[::2, ::-1]
    np.testing.assert_array_equal(c_engine.logits(network, images), reference.logits(network, images))


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_a_network_of_any_size_is_compiled_for_each(trained_named, make_images, cache):
    network = dataclasses.replace(trained_named("basic pact")[1], height=None, width=None)
    before = set(cache.iterdir()) if cache.exists() else set()
    for size in ((5, 11), (4, 3), (5, 11)):
        images = make_images(2, (*size, 3))
        np.testing.assert_array_equal(c_engine.logits(network, images), reference.logits(network, images))
    assert len(set(cache.iterdir()) - before) == 2


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_images_of_which_a_window_leaves_nothing_are_refused(trained_named, make_images):
    network = trained_named("basic pact")[1]
    stem = dataclasses.replace(network.stem, window=Window((3, 3)))
    network = dataclasses.replace(network, nodes=(stem, *network.nodes[1:]), height=None, width=None)
    images = make_images(2, (3, 3, 3))
    np.testing.assert_array_equal(c_engine.logits(network, images), reference.logits(network, images))
    with pytest.raises(ValueError, match="images must have at least 3 x 3 pixels"):
        c_engine.logits(network, images[:, :2])


@needs_compiler
def test_what_is_compiled_is_found_again(trained_named, make_images, monkeypatch):
    _, network = trained_named("basic pact")
    images = make_images(2, (8, 8, 3))
    expected = c_engine.logits(network, images)
    monkeypatch.setattr(c_engine, "_compile", None)
    again = dataclasses.replace(network)  # another object, so that the loaded library is not found
    np.testing.assert_array_equal(c_engine.logits(again, images), expected)


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_loaded_libraries_are_forgotten_with_their_network(trained_named, make_images):
    network = dataclasses.replace(trained_named("basic pact")[1])
    c_engine.logits(network, make_images(1, (8, 8, 3)))
    assert network in c_engine._compiled
    watched = weakref.ref(network)
    del network
    gc.collect()
    assert watched() is None


def _compile_in_a_process(network, directory):
    os.environ["XDG_CACHE_HOME"] = directory
    c_engine.compiled(network, 8, 8)


@needs_compiler
def test_two_processes_may_compile_at_once(trained_named, tmp_path):
    _, network = trained_named("basic pact")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_compile_in_a_process, args=(network, str(tmp_path))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (library,) = (tmp_path / "qresnet_jax" / "c").iterdir()
    images = np.zeros((1, 8, 8, 3), np.uint8)
    logits = c_engine.Library(library, network.classes).logits(images)
    np.testing.assert_array_equal(logits, reference.logits(network, images))


def test_without_a_compiler_the_message_says_what_to_do(trained_named, tmp_path, monkeypatch):
    network = dataclasses.replace(trained_named("basic pact")[1])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match='no C compiler.*Install gcc.*engine="jax"') as error:
        c_engine.logits(network, np.zeros((1, 8, 8, 3), np.uint8))
    assert isinstance(error.value, UserError)
    monkeypatch.setenv("CC", "nocc -O3")
    with pytest.raises(CompilerError, match="CC=nocc: there is no such program"):
        c_engine.find_compiler()


def test_a_compiler_that_fails_is_quoted(trained_named, tmp_path, monkeypatch):
    network = dataclasses.replace(trained_named("basic pact")[1])
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho it is Monday >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", f"{broken} -pipe")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    with pytest.raises(CompilerError, match="broken -pipe.*failed: it is Monday.*Set CC"):
        c_engine.logits(network, np.zeros((1, 8, 8, 3), np.uint8))
    assert list((tmp_path / "new" / "qresnet_jax" / "c").iterdir()) == []


def test_without_a_private_cache_the_message_says_what_to_do(trained_named, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(c_engine, "find_compiler", lambda: ("true",))
    with pytest.raises(CompilerError, match='cannot be made.*XDG_CACHE_HOME to .*, or take .*engine="jax"'):
        c_engine.compiled(trained_named("basic pact")[1], 8, 8)


def test_other_images_are_refused(trained_named):
    _, network = trained_named("basic pact")
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, 8, 8, 3\]"):
        c_engine.logits(network, np.zeros((1, 8, 9, 3), np.uint8))


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_flags_of_cc_are_taken(trained_named, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "cc -O0 -DMODEL_VECTOR=8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    assert (
        subprocess.run([*c_engine.find_compiler(), "--version"], capture_output=True, timeout=300).returncode
        == 0
    )
    network = dataclasses.replace(trained_named("basic pact")[1])
    images = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    np.testing.assert_array_equal(c_engine.logits(network, images), reference.logits(network, images))


def test_a_command_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("CC", 'gcc "')
    with pytest.raises(CompilerError, match="CC=gcc . is no command"):
        c_engine.find_compiler()


@pytest.mark.skipif(shutil.which("true") is None, reason="there is no program true")
def test_a_compiler_that_makes_nothing_is_named(trained_named, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "true")
    with pytest.raises(CompilerError, match="made nothing"):
        c_engine.compiled(trained_named("basic pact")[1], 8, 8)


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_a_damaged_library_is_compiled_again(trained_named, make_images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = dataclasses.replace(trained_named("basic pact")[1])  # another object, not loaded yet
    path = c_engine.compiled(network, 8, 8)
    path.write_bytes(b"no library")
    images = make_images(2, (8, 8, 3))
    np.testing.assert_array_equal(c_engine.logits(network, images), reference.logits(network, images))


@needs_compiler
@pytest.mark.usefixtures("quickly")
def test_a_library_that_never_loads_is_named(trained_named, make_images, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("failed to map segment")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(c_engine.ctypes, "CDLL", refuse)
    network = dataclasses.replace(trained_named("basic pact")[1])
    with pytest.raises(CompilerError, match="cannot be loaded .failed to map segment.*XDG_CACHE_HOME"):
        c_engine.logits(network, make_images(1, (8, 8, 3)))


TINY = """
#include <stddef.h>
#include <stdint.h>
size_t model_run_buffer_bytes = 1;
void model_run(const uint8_t *images, size_t n, int32_t *logits, void *buffer) {}
"""


def of_this_process(what):
    return len(list(pathlib.Path(f"/proc/self/{what}").iterdir()))


@needs_compiler
@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="there is no /proc")
def test_a_thousand_networks_that_are_dropped_leave_nothing_behind(
    trained_named, make_images, tmp_path, monkeypatch, compiler
):
    _, network = trained_named("basic pact")
    (tmp_path / "tiny.c").write_text(TINY)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "tiny.c", "-o", "tiny.so"], cwd=tmp_path, check=True, timeout=300
    )
    copies = (shutil.copy(tmp_path / "tiny.so", tmp_path / f"{i}.so") for i in itertools.count())
    monkeypatch.setattr(c_engine, "compiled", lambda *_: pathlib.Path(next(copies)))
    monkeypatch.setattr(c_engine, "processors", lambda: 3)
    images = make_images(4, (8, 8, 3))
    c_engine.logits(dataclasses.replace(network), images)  # starts the threads
    known, files = len(c_engine._compiled), of_this_process("fd")
    for _ in range(1000):
        c_engine.logits(dataclasses.replace(network), images)
    gc.collect()
    assert str(tmp_path) not in pathlib.Path("/proc/self/maps").read_text()
    assert len(c_engine._compiled) <= known
    assert of_this_process("fd") <= files
    assert sum("qresnet_jax" in thread.name for thread in threading.enumerate()) <= os.cpu_count()


ALONE = """
import atexit, os, pickle, sys, threading
import numpy as np
from qresnet_jax.ship import reference
from qresnet_jax.ship.c import engine
from qresnet_jax.ship.load import load_packed

engine.FLAGS = ("-std=c99", "-Os", "-shared", "-fPIC")
engine.processors = lambda: 3
network = load_packed("digits_resnet8_w1a2")
images = np.arange(9 * 64, dtype=np.uint8).reshape(9, 8, 8, 1)
right = reference.logits(network.network, images)

def check(where):
    assert np.array_equal(network.logits(images), right)
    print(where, threading.active_count() > 1)

check("at first")
if os.fork() == 0:
    check("fork")
    sys.stdout.flush()
    os._exit(0)
assert os.wait()[1] == 0
network = pickle.loads(pickle.dumps(network))
check("pickled")
print("jax" in sys.modules)
atexit.register(check, "at exit")
"""


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_it_works_after_a_fork_and_pickled_and_while_python_exits_and_without_jax(tmp_path):
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "at first True\nfork True\npickled True\nFalse\nat exit False\n"


def program(path, script):
    """An executable file, for CC."""
    path.write_text(script)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("hangs", ["compiling", "--version"])
def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(hangs, trained_named, tmp_path, monkeypatch):
    test = '[ "$1" = --version ] && exit\n' if hangs == "compiling" else ""
    script = f"#!/bin/sh\n{test}sleep 1000 & echo $! > {tmp_path}/child\nwait\n"
    monkeypatch.setenv("CC", str(program(tmp_path / "slow", script)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(c_engine, "COMPILE_SECONDS", 0.5)
    monkeypatch.setattr(c_engine, "VERSION_SECONDS", 0.5)
    with pytest.raises(CompilerError, match="slow .*did not end within 0.5 seconds: set CC"):
        c_engine.compiled(trained_named("basic pact")[1], 8, 8)
    child = (tmp_path / "child").read_text().strip()
    for _ in range(100):  # the system may take a moment to end it, and nobody may be there to collect it
        status = pathlib.Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the compiler started still runs")
    cache = tmp_path / "qresnet_jax" / "c"
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_compiler_that_is_no_program_is_named(trained_named, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(program(tmp_path / "data", "\0\1")))
    with pytest.raises(CompilerError, match="data cannot be run .*: set CC"):
        c_engine.compiled(trained_named("basic pact")[1], 8, 8)


@pytest.mark.parametrize("step", ["TemporaryDirectory", "replace"])
def test_a_cache_that_cannot_be_written_is_named(step, trained_named, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(
        "CC", str(program(tmp_path / "quick", "#!/bin/sh\n[ $1 = --version ] || touch model.so\n"))
    )
    monkeypatch.setattr(tempfile if step == "TemporaryDirectory" else os, step, refuse)
    message = 'qresnet_jax/c cannot be written .Permission denied.*XDG_CACHE_HOME.*engine="jax"'
    with pytest.raises(CompilerError, match=message):
        c_engine.compiled(trained_named("basic pact")[1], 8, 8)
    assert list((tmp_path / "qresnet_jax" / "c").iterdir()) == []


def test_the_cache_keeps_what_was_used_last_and_nothing_that_was_abandoned(
    trained_named, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(
        "CC", str(program(tmp_path / "quick", "#!/bin/sh\n[ $1 = --version ] || touch model.so\n"))
    )
    monkeypatch.setattr(c_engine, "KEPT_LIBRARIES", 3)
    network = trained_named("basic pact")[1]
    used = c_engine.compiled(network, 8, 8)
    cache, now = used.parent, time.time()
    abandoned, running = cache / "compiling_killed", cache / "compiling_now"
    for directory, age in ((abandoned, 10**6), (running, 1)):
        directory.mkdir()
        os.utime(directory, (now - age, now - age))
    others = [cache / f"{i}.so" for i in range(4)]
    for age, path in enumerate(others, start=1):
        path.write_bytes(b"")
        os.utime(path, (now - 100 * age, now - 100 * age))
    os.utime(used, (now - 10**4, now - 10**4))
    c_engine.compiled(network, 8, 8)  # is found, which makes it the last that was used
    new = c_engine.compiled(dataclasses.replace(network, class_names=tuple("vwxyz")), 8, 8)
    assert set(cache.iterdir()) == {used, new, others[0], running}
