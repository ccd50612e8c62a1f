"""`--mode=prepare_data`: prepares the data set of a config for training."""

import logging
import os

from ml_collections import ConfigDict


def prepare_data(config: ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Prepares the data set of `config.data` (see `prepare_dataset`); `workdir` is not used.

    Raises:
      DataError: the set cannot be prepared.
    """
    from qresnet_jax.data import prepare_dataset

    logging.getLogger("qresnet_jax").info("the data set is ready in %s", prepare_dataset(config.data))
