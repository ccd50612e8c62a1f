"""A set of the same form as ImageNet, as TFDS prepares it: JPEG files of different sizes, and a test split without labels."""

import io
import pathlib

import numpy as np

from tests.data.streaming.records_cases import encoded, smooth

CLASSES = 1000


def prepare_imagenet(data_dir, train=20, validation=9):
    """Prepares the set "imagenet2012" in a directory."""
    import tensorflow_datasets as tfds

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.1.0")
        name = "imagenet2012"
        pkg_dir_path = pathlib.Path(__file__).parent

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(encoding_format="jpeg"),
                        "label": tfds.features.ClassLabel(names=[f"n{i:08d}" for i in range(CLASSES)]),
                        "file_name": tfds.features.Text(),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            parts = {"train": train, "validation": validation, "test": 3}
            return {name: self._generate_examples(name, count) for name, count in parts.items()}

        def _generate_examples(self, part, count):
            rng = np.random.default_rng(list(part.encode()))
            for i in range(count):
                height, width = (int(n) for n in rng.integers(40, 200, 2))
                image = io.BytesIO(encoded(smooth(height, width, seed=i), "JPEG", quality=90))
                label = -1 if part == "test" else int(rng.integers(CLASSES))
                yield i, {"image": image, "label": label, "file_name": f"{part}_{i}.JPEG"}

    Imagenet2012(data_dir=data_dir, file_format="array_record").download_and_prepare()
