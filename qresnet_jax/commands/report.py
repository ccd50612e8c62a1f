"""`--mode=report`: the report of a run, or the layer table of a packed file."""

import logging
import os

from ml_collections import ConfigDict


def report(config: ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Prints the layer table of `config.packed`, or without one writes the report of the run in `workdir`.

    Raises:
      UserError: there is no such file or run, or the report cannot be written.
    """
    from qresnet_jax.report.report import report_packed, write_report

    if config.packed:
        logging.getLogger("qresnet_jax").info(report_packed(config.packed))
    else:
        write_report(config, workdir)
