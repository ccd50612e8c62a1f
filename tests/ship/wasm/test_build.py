"""Which programs make WebAssembly, and what is said where they are missing or fail."""

import sys

import pytest

from qresnet_jax.commands.export import export_packed, export_run
from qresnet_jax.config import default_config
from qresnet_jax.errors import CompilerError
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.load import load_packed
from qresnet_jax.ship.wasm import build, sections
from qresnet_jax.ship.wasm.source import sources
from tests.ship.random_networks import random_network


@pytest.fixture(autouse=True)
def forget():
    """What is found in one test is not what is found in another."""
    build.find_tools.cache_clear()
    yield
    build.find_tools.cache_clear()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """`programs(clang="sh commands", ...)`: these programs and no others are installed."""
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))

    def install(**scripts):
        for name, script in scripts.items():
            path = directory / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    return install


@pytest.mark.parametrize(
    "scripts", [{}, {"clang": "exit 0"}, {"wasm_ld": "exit 0"}, {"gcc": "exit 0"}], ids=str
)
def test_where_nothing_compiles_the_message_says_what_to_install(scripts, programs, tmp_path):
    programs(**scripts)
    network = load_packed("digits_resnet8_w1a2", engine="numpy")
    with pytest.raises(CompilerError) as error:
        network.export(tmp_path / "net", format="wasm")
    assert str(error.value) == (
        "nothing here compiles to WebAssembly: install clang and lld (apt install clang lld), or Zig (pip install ziglang)"
    )
    assert not (tmp_path / "net").exists()


def test_the_command_says_so_before_it_reads_anything(programs, tmp_path):
    programs()
    config = default_config()
    config.export.format = "wasm"
    for call in (export_run, export_packed):
        with pytest.raises(CompilerError, match="^nothing here compiles to WebAssembly: install clang"):
            call(config, tmp_path / "no run")


def test_a_compiler_that_fails_is_named_with_what_it_says(programs):
    programs(clang="echo no such target >&2; exit 1", wasm_ld="exit 0")
    with pytest.raises(
        CompilerError, match="^nothing here compiles .*; clang .* failed: no such target"
    ) as error:
        build.find_tools()
    assert "\n" not in str(error.value)


def test_a_compiler_that_hangs_is_left(programs, monkeypatch):
    monkeypatch.setattr(build, "COMPILE_SECONDS", 0.2)
    programs(clang="while :; do :; done", wasm_ld="exit 0")
    with pytest.raises(CompilerError, match="clang .* did not end within 0.2 seconds"):
        build.find_tools()


def test_zig_is_taken_where_clang_does_not_work(programs):
    programs(clang="exit 1", wasm_ld="exit 1", zig='[ "$1" = cc ] || : > model.wasm')
    tools = build.find_tools()
    assert tools.compiler[:2] == ("zig", "cc") and tools.linker == ("zig", "wasm-ld")


def test_zig_may_be_a_package_of_python(programs, monkeypatch):
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: name == "ziglang")
    assert build._candidates()[0][0][:4] == [sys.executable, "-m", "ziglang", "cc"]


def test_the_code_gives_no_warnings(tools):
    network, size = random_network(11)
    strict = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror")
    tools.modules(*sources(plan(network, *size)), [(*build.PLAIN, *strict), (*build.SIMD, *strict)])


def test_the_modules_need_nothing_and_have_one_part_in_common(tools):
    constants = "const int shared[4] = {1, 2, 3, 4};"
    plain, vectors = tools.modules(constants, build._PROBE, [(*build.SIMD, "-DX"), build.SIMD])
    for module in (plain, vectors):
        kinds = [kind for kind, _ in sections.split(module)]
        assert 2 not in kinds and {3, 5, 7, 10} <= set(kinds)  # imports; functions, memory, exports, code
