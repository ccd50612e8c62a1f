import io

import numpy as np
from PIL import Image


def test_all_decoders_give_the_same_pixels(benchmark):
    pipeline = benchmark("pipeline")
    rng = np.random.default_rng(0)
    small = []
    for _ in range(8):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "JPEG")
        small.append(buffer.getvalue())
    (large,) = pipeline.photographs(small, 1)
    found = [decode(large, half) for half in (False, True) for decode in pipeline.decoders().values()]
    assert {pixels.shape for pixels in found} == {(384, 512, 3), (192, 256, 3)}
    assert len({pixels.tobytes() for pixels in found}) == 2


def test_the_table_shows_images_a_second(benchmark, make_measurement):
    def spread(value):
        return {"median": value, "min": value / 2, "max": value * 2, "rounds": 3}

    figures = {
        "decoders": {
            "32x32": {"Pillow": spread(1e-4)},
            "512x384": {"Pillow": spread(1e-3), "half": spread(5e-4)},
        },
        "pipeline": {"0": spread(100), "1": spread(200)},
        "step": {"1": {"seconds": spread(2.0), "waiting": 0.25}},
        "batch": 32,
    }
    table = benchmark("templates.speed").pipeline({"one": make_measurement(**figures)})
    assert "| Pillow | 10,000 | 1,000 |" in table and "| half |  | 2,000 |" in table
    assert "0 workers 100 (50 to 200) and 1 worker 200 (100 to 400) images a second" in table
    assert "waits for its batch 25.0 % of 2.000 s with 1 worker" in table
