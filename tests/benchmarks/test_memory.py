import pytest


@pytest.fixture
def memory(benchmark):
    return benchmark("memory")


@pytest.mark.slow
def test_an_image_takes_what_the_compiled_programs_say(memory):
    rows = {remat: memory.count("cifar", 8, "basic", remat) for remat in memory.REMAT}
    everything, convolutions, block = (rows[remat]["image_bytes"] for remat in memory.REMAT)
    results = 4 * 32 * 32 * (16 * 3 + (32 * 3) / 4 + (64 * 3) / 16)  # of all convolutions, in float32
    assert everything > convolutions > results
    assert everything > block
    flops = {remat: row["image_flops"] for remat, row in rows.items()}
    assert flops["none"] == pytest.approx(flops["convolutions"], rel=0.05)
    assert 1.2 < flops["block"] / flops["none"] < 4 / 3 + 0.05


def test_deep_networks_lie_on_a_line(memory):
    near, far = {"a": 10.0, "b": 1.0}, {"a": 30.0, "b": 1.0}
    assert memory.extrapolated(near, far, 1) == far
    assert memory.extrapolated(near, far, 2.5) == {"a": 60.0, "b": 1.0}


def test_ratios_are_to_the_step_that_keeps_everything(memory, benchmark, make_measurement):
    figures = memory.times_figures({"none": [1.0, 2.0], "block": [1.5, 2.0]}, devices=2)
    assert figures["ratio"]["block"] == {"median": 1.25, "min": 1.0, "max": 1.5, "rounds": 2}
    table = benchmark("templates.scaling").remat({"times": make_measurement(**figures)})
    assert "| `block` | 1.750 s | 1.25 (1.00 to 1.50) |" in table


def test_the_table_says_how_many_images_fit(benchmark, make_measurement):
    scaling = benchmark("templates.scaling")
    row = {"image_bytes": 2**30 / 2, "fixed_bytes": 2**30, "image_flops": 2.5e8}
    rows = {"none": row, "block": {**row, "image_bytes": 2**30 / 8}}
    figures = {"what": "sizes", "network": "ResNet-8", "size": 32, "extrapolated": True, "rows": rows}
    measurements = {"resnet_8": make_measurement(**figures)}
    table = scaling.memory(measurements)
    assert "| ResNet-8, 32x32 (extrapolated) | `none` | 537 MB | 1070 MB | 0.25 G | 30 |" in table
    assert scaling.memory_figures(measurements)["resnet_8_block_saved"] == "75 %"
    assert scaling.fitting({**row, "fixed_bytes": 2**35}) == 0


def test_an_unknown_network_is_refused(run_benchmark):
    done = run_benchmark("memory", "sizes", "--networks=resnet_9")
    assert done.returncode != 0 and "no such network: resnet_9; there are resnet_20" in done.stderr
