"""`--mode=report`: writes the report of a run, or prints the layer table of a packed file."""

import logging
import os

from ml_collections import ConfigDict


def report(config: ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Prints the layer table of the packed file in `config.packed`, or, if that is empty, writes the run's report.

    Raises:
      UserError: there is no such file or run, or the report cannot be written.
    """
    from qresnet_jax.report.report import report_packed, write_report

    if config.packed:
        logging.getLogger("qresnet_jax").info(report_packed(config.packed))
    else:
        write_report(config, workdir)
