"""Defines all config fields, their defaults, and their possible values.

This package does not import JAX, so that a wrong config is refused at once.
"""

from qresnet_jax.config.fields import (
    OF_THE_CALL,
    WITHOUT_EFFECT,
    default_config,
    flatten,
    from_json,
    unknown_field,
)
from qresnet_jax.config.needs import unmet_need, unused_fields
from qresnet_jax.config.validation import (
    has_processes,
    validate,
    validate_dataset,
    validate_devices,
    validate_dispatch,
)

__all__ = [
    "OF_THE_CALL",
    "WITHOUT_EFFECT",
    "default_config",
    "flatten",
    "from_json",
    "has_processes",
    "unknown_field",
    "unmet_need",
    "unused_fields",
    "validate",
    "validate_dataset",
    "validate_devices",
    "validate_dispatch",
]
