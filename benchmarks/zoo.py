"""Measures the test accuracy of the packed files that come with the package.

    python benchmarks/zoo.py [--engine=jax] [--cifar10-jpeg=cifar10_jpeg.tar.xz] [--save]

Every file is run on all test images of the data set that begins its name, through the public `load_packed`. scikit-learn's
digits are always there. Fashion-MNIST is read from the prepared data sets ($TFDS_DATA_DIR or ~/tensorflow_datasets), or
prepared from the files of Debian's package dataset-fashion-mnist where that is installed. CIFAR-10-JPEG is an archive of image
files, which `--cifar10-jpeg` names. A set that is missing is named at the end, with a way to get it; the other networks are
measured nevertheless, and the exit status is 1.
"""

import argparse
import functools
import pathlib
import sys

from results import add_save_option, measured, save
from templates.accuracy import zoo as table

from qresnet_jax import default_config, load_packed
from qresnet_jax.data.sets import load_dataset
from qresnet_jax.errors import DataError
from qresnet_jax.ship.load import zoo
from qresnet_jax.system.machine import processors

NAME = "zoo"
SETS = ("digits", "fashion_mnist", "cifar10_jpeg")
DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
TRAINED_BY = {  # the commands whose runs were exported; a packed file does not say
    "cifar10_jpeg_resnet20_w1a2": "`--config=cifar10_jpeg_w1a2 --config.num_epochs=30 --config.optim.float_epochs=10 "
    "--config.optim.warmup_epochs=0.3 --config.data.crop_padding=2 "
    "--config.optim.distillation.teacher=runs/cifar10_jpeg_fp32`, seed 0, on one CPU device in 82 minutes, after 178 minutes "
    "for its teacher, `--config=cifar10_jpeg_fp32 --config.num_epochs=30 --config.optim.warmup_epochs=0.3 "
    "--config.data.crop_padding=2`",
    "cifar10_jpeg_resnet8_w1a2": "`--config=cifar10_jpeg_w1a2 --config.model.depth=8 --config.num_epochs=10 "
    "--config.optim.float_epochs=2 --config.optim.warmup_epochs=0.3 --config.data.crop_padding=2`, seed 1, the best of three "
    "in validation, on one CPU device in 13 minutes",
    "digits_mobilenet_w1a2": "`--config=digits --config.model.name=mobilenet --config.num_epochs=100 "
    "--config.optim.float_epochs=30 --config.optim.latent_rate=3.0`, seed 0, on one CPU device",
    "digits_resnet8_w1a2": "`--config=digits`, seed 0, on one CPU device",
    "digits_vgg_small_w1a2": '`--config=digits --config.model.name=vgg_small --config.model.image_size="(8,8)" '
    "--config.model.width=2 --config.num_epochs=100 --config.optim.float_epochs=30 --config.optim.latent_rate=3.0`, "
    "seed 0, on one CPU device",
    "fashion_mnist_mlp_w1a2": '`--config=fashion_mnist_w1a2 --config.model.name=mlp --config.model.image_size="(28,28)" '
    '--config.model.act_bits="(2,2)" --config.num_epochs=30 --config.batch_size=128 --config.optim.learning_rate=0.1 '
    "--config.optim.float_epochs=10 --config.data.crop_padding=2 --config.data.flip=True`, by the config of commit 80948bd, "
    "seed 0, on two CPU devices",
    "fashion_mnist_resnet20_w1a2": "`--config=fashion_mnist_w1a2 "
    "--config.optim.distillation.teacher=runs/fashion_mnist_fp32`, seed 0, on one CPU device in 70 minutes, after 40 minutes "
    "for its teacher, `--config=fashion_mnist_fp32`",
}
HOW_TO_GET = {
    "fashion_mnist": "Install Debian's package with `apt-get install dataset-fashion-mnist` and run this again, or download "
    "the set with `qresnet --config=fashion_mnist_w1a2 --mode=prepare_data`.",
    "cifar10_jpeg": "Give the archive of its image files with `--cifar10-jpeg=cifar10_jpeg.tar.xz`.",
}


def data_set(name: str) -> str:
    """Returns the data set of a network in the zoo: digits_resnet8_w1a2 was trained on digits."""
    return next(data for data in SETS if name.startswith(f"{data}_"))


@functools.cache  # several networks are measured on one set
def load_test_set(name: str, archive: str):
    """Returns the test images, uint8 `[N, H, W, C]`, and labels of a data set; `archive` has those of CIFAR-10-JPEG.

    Raises:
      DataError: if it is missing; the message says how to get it.
    """
    config = default_config().data
    config.name = name
    if name == "fashion_mnist" and DEBIAN.is_dir():
        config.raw_dir = str(DEBIAN)
    if name == "cifar10_jpeg":
        config.name, config.raw_dir = "folder", archive
    try:
        return load_dataset(config).test
    except DataError as error:
        raise DataError(f"{name} is missing. {HOW_TO_GET.get(name, '')} ({error})") from error


def test_accuracy(name: str, engine: str, archive: str) -> dict:
    """Returns the figures of a network in the zoo; `archive` has the images of CIFAR-10-JPEG."""
    test = load_test_set(data_set(name), archive)
    network = load_packed(name, engine=engine)
    batches = range(0, len(test.images), 1000)
    correct = sum(
        int((network.predict(test.images[i : i + 1000]) == test.labels[i : i + 1000]).sum()) for i in batches
    )
    return {
        "data": data_set(name),
        "images": len(test.images),
        "correct": correct,
        "accuracy": correct / len(test.images),
        "bytes": network.nbytes,
        "engine": engine,
        "trained_by": TRAINED_BY[name],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    engines = ("jax", "c", "numpy")
    parser.add_argument("--engine", choices=engines, default="jax", metavar="NAME", help=", ".join(engines))
    parser.add_argument(
        "--only", default="", help="part of the names of the networks to measure; default: all"
    )
    parser.add_argument(
        "--cifar10-jpeg",
        default="cifar10_jpeg.tar.xz",
        metavar="ARCHIVE",
        help="the images of CIFAR-10-JPEG; default: %(default)s in the current directory",
    )
    add_save_option(parser, NAME)
    args = parser.parse_args()
    found, missing = {}, []
    for name in (name for name in zoo() if args.only in name):
        try:
            found[name] = measured(test_accuracy(name, args.engine, args.cifar10_jpeg), cores=processors())
        except DataError as error:
            missing.append(str(error))
    print(table(found))
    for name, measurement in found.items():
        if args.save:
            print("wrote", save(NAME, name, measurement, args.save))
    for message in missing:
        print(f"error: {message}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
