"""The same as `qresnet` and `python -m qresnet_jax`: python main.py --config=digits"""

from qresnet_jax.__main__ import run

if __name__ == "__main__":
    run()
