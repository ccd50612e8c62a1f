"""TFDS builders of CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST that need no TensorFlow.

A data directory prepared here and one prepared by TensorFlow Datasets (TFDS) elsewhere are interchangeable: the
builders are TFDS's own, with the same name, version, features, keys and hence order; only the reading is replaced.
The stock builders read and encode images through TensorFlow; these read with `archives` and yield PNG files. The
result lies in DATA_DIR/NAME/VERSION as ArrayRecord files, and is moved there in one step when it is complete.
"""

import contextlib
import functools
import hashlib
import http.client
import io
import logging
import os
import pathlib
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np

from qresnet_jax.data.archives import read_raw
from qresnet_jax.data.published import PUBLISHED, RawSet, RawSplit
from qresnet_jax.errors import DataError
from qresnet_jax.system.files import as_path, make_directory, missing_directories

log = logging.getLogger("qresnet_jax")

STANDARD = tuple(PUBLISHED)

_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# URL -> SHA-256, as TFDS has them (a test compares the two). The checksums also make downloads by plain http safe.
SOURCES: dict[str, dict[str, str]] = {
    "cifar10": {
        _CIFAR + "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    },
    "cifar100": {
        _CIFAR + "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    },
    "mnist": {
        _MNIST
        + "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        _MNIST
        + "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        _MNIST
        + "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        _MNIST
        + "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion_mnist": {
        _FASHION
        + "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        _FASHION
        + "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        _FASHION
        + "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        _FASHION
        + "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}
CONNECT_SECONDS = 4.0  # a user without a network gets an answer within 5 s, start-up included


def data_root(data_dir: str | os.PathLike[str] = "") -> pathlib.Path:
    """Returns the directory of all sets, as TFDS does: `data_dir`, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return as_path(chosen)


def prepared_dir(name: str, data_dir: str | os.PathLike[str] = "") -> pathlib.Path | None:
    """Finds a prepared set, without importing TFDS.

    Args:
      name: "name", "name/config", "name:1.2.3" or "name/config:1.2.3". Without a version the highest version is taken,
        without a configuration the only one.
      data_dir: as in `data_root`.

    Returns:
      The directory that contains the set's dataset_info.json, or None if the set is not prepared.

    Raises:
      DataError: the name does not have this form, or there are several configurations to choose from.
    """
    match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise DataError(f"config.data.name={name!r}: expected name, name/config or name/config:1.2.3.")
    base, config, version = match.groups()

    def newest(folder: pathlib.Path) -> pathlib.Path | None:
        found = [
            path.parent
            for path in folder.glob("*/dataset_info.json")
            if re.fullmatch(version or r"\d+\.\d+\.\d+", path.parent.name)
        ]
        return max(found, key=lambda path: [int(part) for part in path.name.split(".")], default=None)

    folder = data_root(data_dir) / base
    if config or not folder.is_dir():
        return newest(folder / config) if config else None
    if direct := newest(folder):
        return direct
    configs = [path for path in sorted(folder.iterdir()) if path.is_dir() and newest(path)]
    if len(configs) > 1:
        choices = ", ".join(f"{base}/{path.name}" for path in configs)
        raise DataError(
            f"config.data.name={name!r} has several configurations in {folder}: choose one of {choices}."
        )
    return newest(configs[0]) if configs else None


def how_to_prepare(name: str, data_dir: str | os.PathLike[str] = "") -> str:
    """Returns the command that prepares a standard set from files, for messages."""
    elsewhere = f" --config.data.data_dir={data_dir}" if data_dir else ""
    debian = (
        "; Debian's package dataset-fashion-mnist provides them in DIR=/usr/share/datasets/fashion-mnist"
        if name == "fashion_mnist"
        else ""
    )
    return (
        f"qresnet --config=... --mode=prepare_data --config.data.raw_dir=DIR{elsewhere} , "
        f"where DIR holds {PUBLISHED[name].files} (from {PUBLISHED[name].home}{debian})"
    )


def prepare(
    name: str, data_dir: str | os.PathLike[str] = "", raw_dir: str | os.PathLike[str] = ""
) -> pathlib.Path:
    """Prepares a standard set from its archive, or does nothing if the set is prepared already.

    Args:
      name: one of STANDARD.
      data_dir: as in `data_root`.
      raw_dir: where the published archive lies (see `archives.read_raw`). If empty, the archive is downloaded into
        `data_dir`.

    Returns:
      The prepared directory, DATA_DIR/NAME/VERSION.

    Raises:
      DataError: the archive is missing, damaged, or cannot be downloaded (without a network this is known after
        CONNECT_SECONDS); or `data_dir` cannot be written; or an incomplete directory is in the way.
    """
    root = data_root(data_dir)
    if done := prepared_dir(name, root):
        log.info("%s is already prepared in %s", name, done)
        return done
    try:
        missing_directories(root / name)  # before anything is read or downloaded
        raw = read_raw(name, raw_dir or _download(name, root, data_dir))
        builder = _builder_class(name)(data_dir=root, file_format="array_record")
        target = pathlib.Path(builder.data_dir)
        if target.exists():
            # TFDS would consider it prepared and return without a message.
            raise DataError(f"{target} exists but has no dataset_info.json: delete it and prepare again.")
        builder.raw = raw
        log.info("preparing %s in %s", name, target)
        builder.download_and_prepare()
    except OSError as error:
        # Two runs may start together: the second one then finds the directory already complete.
        if done := prepared_dir(name, root):
            return done
        raise DataError(
            f"{name} could not be prepared in {root}: {error}. Mend this, or choose another config.data.data_dir."
        ) from error
    return target


@functools.cache
def _builder_class(name: str) -> Any:  # TFDS does not declare its types
    """Returns TFDS's builder of this name with our reading. It is not registered: the stock one stays available."""
    import tensorflow_datasets as tfds

    stock: Any = tfds.builder_cls(name)

    class FromArchive(stock, skip_registration=True):  # type: ignore[call-arg]  # a keyword of TFDS's base class
        """The stock builder, which takes its images from `raw`; set that before `download_and_prepare`."""

        name = stock.name
        raw: RawSet

        def _log_download_bytes(self) -> None:
            """Prints nothing: the stock builder says "Downloading", which is not what happens here."""

        def _log_download_done(self) -> None:
            """Prints nothing: the stock builder says "downloaded"."""

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            for key, names in self.raw.class_names.items():
                self.info.features[key].names = names
            return {
                part: self._generate_examples(part, getattr(self.raw, part)) for part in ("train", "test")
            }

        def _generate_examples(self, part: str, split: RawSplit) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, image in enumerate(split.images):
                example: dict[str, Any] = {"image": io.BytesIO(_png(image))}
                example |= {key: int(labels[i]) for key, labels in split.labels.items()}
                if "id" in self.info.features:
                    example["id"] = f"{part}_{i:05d}"
                yield i, example

    return FromArchive


def _png(image: np.ndarray) -> bytes:
    """Encodes an image, uint8 [H, W, 1 or 3], as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _download(name: str, root: pathlib.Path, data_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Downloads the published archive into ROOT/downloads/NAME, unless it is there with the right checksum.

    Returns:
      The directory ROOT/downloads/NAME.

    Raises:
      DataError: the archive cannot be downloaded; the message says how to prepare the set from files instead.
    """
    folder = root / "downloads" / name
    for url, sha256 in SOURCES[name].items():
        target = folder / url.rsplit("/", 1)[1]
        if target.is_file() and _sha256(target) == sha256:
            continue
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            with _open(url) as response:
                log.info("downloading %s", url)
                make_directory(folder)
                with open(part, "wb") as file:
                    while block := response.read(1 << 20):
                        file.write(block)
            if (got := _sha256(part)) != sha256:
                size = part.stat().st_size
                raise ValueError(
                    f"expected SHA-256 {sha256}, got {got}, {size} bytes: the file was cut or changed on the way"
                )
            part.replace(target)
        except Exception as error:  # urllib raises OSError, HTTPException and, for odd proxies, ValueError
            raise DataError(
                f"{name} is not prepared in {root} and cannot be downloaded from {url} ({error}). "
                f"To prepare it from files: {how_to_prepare(name, data_dir)}."
            ) from error
        finally:
            part.unlink(missing_ok=True)
    return folder


def _open(url: str) -> http.client.HTTPResponse:
    """Opens a URL; returns the open response, or raises an exception within CONNECT_SECONDS.

    It connects in a thread, because looking up a host name can hang for far longer than any time limit of a socket.
    """
    answer: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    given_up = threading.Event()

    def connect() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=60)
            answer.put(response)
            if given_up.is_set():  # nobody may be left to take it
                response.close()
        except urllib.error.HTTPError as error:
            error.close()  # the exception is an open response as well
            answer.put(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = answer.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        given_up.set()
        with contextlib.suppress(queue.Empty):  # it may have come in between
            if not isinstance(late := answer.get_nowait(), Exception):
                late.close()
        raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
