"""Says which folders are packages; everything else about the package stands in pyproject.toml.

The config files lie in `configs/` of a checkout and in `qresnet_jax/configs/` of an installed package, a mapping that
pyproject.toml cannot express together with a search for packages.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["qresnet_jax", "qresnet_jax.*"]), "qresnet_jax.configs"],
    package_dir={"qresnet_jax.configs": "configs"},
)
