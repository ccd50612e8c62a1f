"""Sizes, strides and padding, as users give them to layers and functions."""

from collections.abc import Sequence
from typing import Literal

from qresnet_jax.ops.plain import CENTERED, Form

Pair = tuple[int, int]
Padding = int | Literal["VALID"] | Sequence[Sequence[int]] | None


def pair(value: int | Sequence[int], what: str = "kernel_size and strides") -> Pair:
    """Returns a number for both axes, or two numbers, as two numbers.

    Raises:
      ValueError: it is something else.
    """
    numbers = (value, value) if isinstance(value, int) else tuple(value)
    if len(numbers) != 2 or not all(isinstance(n, int) and n >= 1 for n in numbers):
        raise ValueError(f"{what} must be two numbers above 0, along H and W, or one for both; got {value}")
    return numbers


def borders(padding: Padding, window: Pair) -> tuple[Pair, Pair]:
    """Returns the pixels around an image, before and after it along each axis.

    Args:
      padding: a number for all sides, `((top, bottom), (left, right))`, "VALID" for none, or None for `(k - 1) // 2` on both
        sides, as PyTorch pads.
      window: the size of the kernel or of the pooled window.

    Raises:
      ValueError: it is something else, or as large as the window.
    """
    rows: Sequence[int]
    columns: Sequence[int]
    if padding is None:
        rows, columns = CENTERED.borders(window)
    elif padding == "VALID":
        rows, columns = (0, 0), (0, 0)
    elif isinstance(padding, int):
        rows, columns = (padding, padding), (padding, padding)
    elif isinstance(padding, str) or [len(side) for side in padding] != [2, 2]:
        raise ValueError(
            'padding must be a number of pixels, ((top, bottom), (left, right)), "VALID", or None for (k - 1) // 2 on both '
            f'sides ("SAME" would pad differently at stride 2); got {padding!r}'
        )
    else:
        rows, columns = padding
    if not all(0 <= p < size for size, side in zip(window, (rows, columns), strict=True) for p in side):
        raise ValueError(f"padding must be from 0 to less than the window, {window}; got {padding!r}")
    return (rows[0], rows[1]), (columns[0], columns[1])


def conv_form(padding: Padding, kernel_size: Pair, groups: int = 1, features: Sequence[int] = ()) -> Form:
    """Returns padding and groups of a convolution.

    Args:
      padding: see `borders`.
      kernel_size: along H and W.
      groups: parts into which the channels are divided.
      features: the numbers of channels that they must divide.

    Raises:
      ValueError: they are not possible.
    """
    if groups < 1 or any(size % groups for size in features):
        raise ValueError(f"groups must divide the channels {tuple(features)}, got {groups}")
    around = borders(padding, kernel_size)
    usual = around == CENTERED.borders(kernel_size)
    return Form(None if usual else around, groups)
