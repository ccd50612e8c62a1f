"""Runs the command in a checkout: `python main.py --config=digits` is `qresnet --config=digits`."""

from qresnet_jax.__main__ import run

if __name__ == "__main__":
    run()
