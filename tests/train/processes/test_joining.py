"""What is refused before processes are connected."""

import socket

import pytest

from qresnet_jax.config import default_config
from qresnet_jax.errors import ConfigError
from qresnet_jax.train.processes import join


def refusal(kind=ConfigError, **fields):
    config = default_config()
    config.distributed.num_processes, config.distributed.process_id = 2, 0
    config.distributed.update(fields)
    with pytest.raises(kind) as caught:
        join(config)
    return str(caught.value)


def test_an_unknown_host_is_refused_at_once():
    message = refusal(coordinator="nowhere.invalid:1234", process_id=1)
    assert (
        "config.distributed.coordinator=nowhere.invalid:1234: the host nowhere.invalid is unknown" in message
    )


def test_a_port_in_use_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refusal(coordinator=f"localhost:{port}")
    assert f"the port {port} cannot be had on this machine" in message and "give another port" in message
