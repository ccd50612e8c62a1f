"""Firmware in an emulator gives the logits of the reference, and its figures are rendered."""

import dataclasses

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed

TARGETS = ("Cortex-M4", "Cortex-M0+", "Cortex-M33", "RV32IMC")


@pytest.fixture
def firmware(benchmark):
    return benchmark("firmware")


@pytest.fixture(scope="module")
def network():
    return read_packed(find_packed("digits_resnet8_w1a2"))


def test_every_target_is_tested(firmware):
    assert tuple(firmware.TARGETS) == TARGETS and firmware.FIRST in TARGETS


@pytest.mark.parametrize("profile", ["small", pytest.param("fast", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TARGETS)
def test_firmware_gives_the_logits_of_the_reference(firmware, network, name, profile, tmp_path):
    target = firmware.TARGETS[name]
    if not target.is_here:
        pytest.skip(f"there is no {target.compiler.split()[0]} or no {target.emulator.split()[0]}")
    image = firmware.pixels(network, 1)
    firmware.built(target, "-O2", c_files(network, profile=profile), image, tmp_path)
    count, logits = firmware.run(target, tmp_path)
    np.testing.assert_array_equal(logits, reference.logits(network, image)[0])
    assert 10**5 < count < 10**8


def test_a_row_has_sizes_and_instructions(firmware, network, tmp_path):
    target = firmware.TARGETS[firmware.FIRST]
    if not target.is_here:
        pytest.skip("there is no arm-none-eabi-gcc or no qemu-system-arm")
    row = firmware.measure(network, "digits", "small", "-Os", firmware.FIRST, tmp_path)
    assert row["command"] == f"{target.compiler} -Os"
    assert (row["network"], row["profile"], row["target"]) == ("digits", "small", "Cortex-M4")
    assert 0 < row["stack"] < 1000 < row["buffer"] < row["text"] < row["instructions"]


def test_other_logits_than_those_of_the_reference_end_the_benchmark(firmware, network, monkeypatch, tmp_path):
    monkeypatch.setattr(firmware, "built", lambda *_: None)
    monkeypatch.setattr(firmware, "run", lambda *_: (1, np.zeros(10)))
    with pytest.raises(SystemExit, match="computes other logits"):
        firmware.measure(network, "digits", "small", "-O2", "Cortex-M4", tmp_path)


def test_a_target_needs_compiler_and_emulator(firmware):
    here = firmware.Target("sh -some -flags", "sh -M board")
    assert here.is_here and not here.is_riscv
    assert not dataclasses.replace(here, compiler="no-such-gcc").is_here
    assert not dataclasses.replace(here, emulator="no-such-qemu").is_here


def test_cases_are_rows_of_known_networks_and_installed_targets(firmware):
    eight, twenty = firmware.RESNETS
    rows = firmware.cases([eight, "digits"], ["Cortex-M4", "RV32IMC"])
    assert rows == [
        (eight, "small", "-O2", "Cortex-M4"),
        (eight, "fast", "-O2", "Cortex-M4"),
        ("digits", "small", "-O2", "Cortex-M4"),
        ("digits", "fast", "-O2", "Cortex-M4"),
        (eight, "small", "-Os", "Cortex-M4"),
        (eight, "small", "-O2", "RV32IMC"),
    ]
    every = firmware.cases(firmware.networks(), firmware.TARGETS)
    assert len(every) == len(set(every))
    assert {row[3] for row in every if row[0] == twenty} == set(TARGETS)
    assert all(row[3] == "Cortex-M4" for row in every if row[0] not in firmware.RESNETS)


@pytest.fixture
def measurements(make_measurement):
    """Two invented rows."""
    row = {"network": "ResNet-8, 32x32x3", "profile": "small", "target": "Cortex-M4"}
    row |= {"command": "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -O2", "text": 23538}
    row |= {"buffer": 46507, "stack": 840, "instructions": 8_400_000, "multiplications": 12_500_000}
    other = {"network": "digits", "profile": "fast", "target": "RV32IMC", "command": "some-gcc -Os"}
    return {"firmware": make_measurement(what="firmware", rows=[row, {**row, **other}])}


def test_the_table_has_a_row_for_each_case(benchmark, measurements):
    lines = benchmark("templates.c_code").firmware(measurements).splitlines()
    assert lines[0].startswith("| Network | Profile | Processor | Compiler | Instructions |")
    assert lines[2] == (
        "| ResNet-8, 32x32x3 | `small` | Cortex-M4 | `arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -O2` "
        "| 8.40 M | 0.67 | 23.5 kB | 46.5 kB | 0.84 kB |"
    )
    assert lines[3].startswith("| digits | `fast` | RV32IMC | `some-gcc -Os` | 8.40 M |")
    assert "Executed instructions for one image" in lines[-1] and "29 November 2026" in lines[-1]


def test_figures_have_names_of_network_profile_processor_and_level(benchmark, measurements):
    figures = benchmark("templates.c_code").firmware_figures(measurements)
    key = "resnet_8_small_cortex_m4_o2"
    assert {name: text for name, text in figures.items() if name.startswith(key)} == {
        f"{key}_instructions": "8.4 M",
        f"{key}_rate": "0.67",
        f"{key}_flash": "23.5 kB",
        f"{key}_ram": "47.3 kB",
        f"{key}_time": "70 to 105 ms",
    }
    assert len(figures) == 10 and figures["digits_fast_rv32imc_os_rate"] == "0.67"
