"""Measures how fast images are decoded and streamed, and how long a training step waits for them.

    python benchmarks/pipeline.py --archive=cifar10_jpeg.tar.xz [--rounds=5] [--steps=6] [--save]

The images are those of CIFAR-10-JPEG: as they are, 16x12 of them side by side, which has the size and the detail of a
photograph of ImageNet, and scaled up to 224x224. All are JPEG files.

- Decoders take turns; what counts is the processor time of one image on one core. OpenCV is measured if it is installed.
- The pipeline cuts random parts out of the 224x224 images, with 0, 1 and 2 workers in turns; what counts is the time on the clock,
  so it depends on what else the machine does.
- A ResNet-18 then trains on these batches, on all devices, and the time that it waits for them is taken apart.
"""

import argparse
import contextlib
import io
import tarfile
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import simplejpeg
from PIL import Image
from results import add_save_option, measured, save, spread

from qresnet_jax import load_config
from qresnet_jax.data import load_dataset
from qresnet_jax.data.streaming.batches import Images, TrainBatches
from qresnet_jax.data.streaming.stream import Stream
from qresnet_jax.data.streaming.views import View
from qresnet_jax.system.machine import processors
from qresnet_jax.train.loop import Training
from qresnet_jax.train.parallel import cores_as_devices, device_mesh, replicate
from qresnet_jax.train.step import init_state

NAME = "pipeline"
SIZE, TILES, IMAGES, BATCH = 224, (12, 16), 512, 32
WORKERS = (0, 1, 2)


def archived(path: str, count: int) -> list[bytes]:
    """Returns the first image files of an archive."""
    found = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".jpg"):
                found.append(archive.extractfile(member).read())
            if len(found) == count:
                return found
    raise SystemExit(f"{path} has only {len(found)} images, but {count} are needed")


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photographs(small: list[bytes], count: int) -> list[bytes]:
    """Returns pictures of 512x384 pixels, each of many small ones."""
    tiles = np.stack([simplejpeg.decode_jpeg(data) for data in small])
    rows, columns = TILES
    found = []
    for i in range(count):
        chosen = tiles[(i * rows * columns + np.arange(rows * columns)) % len(tiles)]
        grid = chosen.reshape(rows, columns, 32, 32, 3).swapaxes(1, 2).reshape(rows * 32, columns * 32, 3)
        found.append(jpeg(Image.fromarray(grid)))
    return found


def scaled_up(data: bytes) -> bytes:
    return jpeg(Image.open(io.BytesIO(data)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def decoders() -> dict:
    """Returns the decoders by name; those of half the size use what libjpeg can do."""

    def pillow(data, half=False):
        with Image.open(io.BytesIO(data)) as picture:
            if half:
                picture.draft("RGB", (picture.width // 2, picture.height // 2))
            return np.asarray(picture.convert("RGB"))

    def jpeg_turbo(data, half=False):
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        least = {"min_height": -(-height // 2), "min_width": -(-width // 2)} if half else {}
        return simplejpeg.decode_jpeg(data, "RGB", **least)

    found = {"Pillow": pillow, "simplejpeg": jpeg_turbo}
    try:
        import cv2
    except ImportError:
        return found
    cv2.setNumThreads(0)

    def opencv(data, half=False):
        how = cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), how), cv2.COLOR_BGR2RGB)

    return found | {"OpenCV": opencv}


def processor_seconds(work, items: list) -> float:
    """Returns the processor time of one item on one core."""
    began = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - began) / len(items)


def measure_decoders(sets: dict[str, list[bytes]], rounds: int) -> dict:
    """Returns, by size and decoder, the seconds of an image, of its half, and of what training makes of it."""
    times: dict = {}
    for _ in range(rounds):
        for size, items in sets.items():
            work = dict(decoders())
            if size != "32x32":
                work |= {
                    f"{name}, half": lambda data, f=decode: f(data, True)
                    for name, decode in decoders().items()
                }
                view = View(3, SIZE, 0.08)
                work["decode, cut and resize"] = lambda data, view=view: view.of_training(data, 0, len(data))
            for name, one in work.items():
                times.setdefault(size, {}).setdefault(name, []).append(processor_seconds(one, items))
    return {size: {name: spread(seconds) for name, seconds in of.items()} for size, of in times.items()}


def configuration(folder: Path):
    """Writes a folder of images scaled up to 224x224, and returns the config that trains a ResNet-18 on them."""
    config = load_config("imagenet_resnet18_w1a2")
    config.data.name, config.data.raw_dir, config.data.data_dir = (
        "folder",
        str(folder),
        str(folder / "prepared"),
    )
    config.batch_size, config.dtype, config.model.num_classes = BATCH, "float32", 10
    return config


def write_folder(folder: Path, items: list[bytes]) -> None:
    """Writes images into the folders of ten classes, and a few of them for the test."""
    for i, data in enumerate(items):
        for part in ("train", "test") if i < 10 else ("train",):
            path = folder / part / str(i % 10) / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(scaled_up(data))


def images_per_second(images: Images, workers: int, batches: int) -> float:
    """Returns how many images a stream gives in a second once it runs."""
    steps = batches + 2 * (workers + 1)
    source = TrainBatches(images, 0, BATCH, range(BATCH), 10 * steps)
    with Stream(source, 0, workers, BATCH * SIZE * SIZE * 3, lambda batch: batch) as stream:
        for _ in range(steps - batches):  # workers start, and what waits is taken
            next(stream)
        began = time.perf_counter()
        for _ in range(batches):
            next(stream)
        return batches * BATCH / (time.perf_counter() - began)


def measure_pipeline(images: Images, rounds: int) -> dict:
    """Returns the images a second of the pipeline by the number of workers."""
    speeds: dict[str, list[float]] = {str(n): [] for n in WORKERS}
    for _ in range(rounds):
        for n in WORKERS:
            speeds[str(n)].append(images_per_second(images, n, 6))
    return {n: spread(of) for n, of in speeds.items()}


def measure_waiting(config, workers: int, steps: int) -> dict:
    """Returns the seconds of training steps, and the share of them in which they wait for their batch."""
    config.data.workers = workers
    with tempfile.TemporaryDirectory() as directory:
        run = Training(config, Path(directory), device_mesh())
    state = replicate(init_state(run.params, run.model_state, run.tx), run.mesh)
    program = run.programs()(1)
    whole, waited = [], []
    with contextlib.closing(run.feed()) as feed:
        state = jax.block_until_ready(program(state, feed(0)))  # compiles
        for step in range(1, steps + 1):
            began = time.perf_counter()
            data = jax.block_until_ready(feed(step))
            waited.append(time.perf_counter() - began)
            state = jax.block_until_ready(program(state, data))
            whole.append(time.perf_counter() - began)
    return {"seconds": spread(whole), "waiting": sum(waited) / sum(whole)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", required=True, help="cifar10_jpeg.tar.xz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    add_save_option(parser, NAME)
    args = parser.parse_args()
    cores_as_devices(BATCH)
    small = archived(args.archive, IMAGES)
    large = photographs(small, 24)
    figures: dict = {
        "decoders": measure_decoders({"32x32": small, "512x384": large}, args.rounds),
        "file_bytes": sum(map(len, large)) // len(large),
        "batch": BATCH,
        "images": IMAGES,
    }
    for size, of in figures["decoders"].items():
        for name, seconds in of.items():
            print(f"{size:>8} {name:24} {1e6 * seconds['median']:8.0f} us of a core", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_folder(folder, small)
        config = configuration(folder)
        figures["pipeline"] = measure_pipeline(load_dataset(config.data).train.images, args.rounds)
        for n, speed in figures["pipeline"].items():
            print(
                f"{n} workers: {speed['median']:.0f} images/s ({speed['min']:.0f} to {speed['max']:.0f})",
                flush=True,
            )
        figures["step"] = {str(n): measure_waiting(config, n, args.steps) for n in (0, 1)}
        for n, step in figures["step"].items():
            print(
                f"{n} workers: a step of {step['seconds']['median']:.2f} s waits {step['waiting']:.1%} of its time"
            )
    if args.save:
        print(
            "wrote", save(NAME, "CIFAR-10-JPEG, scaled up", measured(figures, cores=processors()), args.save)
        )


if __name__ == "__main__":
    main()
