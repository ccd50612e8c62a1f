"""The ranges of integers: those of the residual stream, and those that float32 sums exactly. It does not import JAX."""

STREAM_MIN, STREAM_MAX = -(2**15), 2**15 - 1  # int16
SUM_LIMIT = 2**24  # integers of smaller magnitude, and all sums of them that stay below, are exact in float32
MOST_FEATURES = 2**16  # of a classifier; with more, half units alone would take most of int32's range


def most_weight_bits(largest_input: int, taps: int) -> int:
    """Returns the most bits of signed integer weights for which every sum of products stays below `SUM_LIMIT`.

    Args:
      largest_input: the largest magnitude of an input.
      taps: how many products a sum has, which is `kernel height * kernel width * input channels` for a
        convolution.
    """
    largest_weight = (SUM_LIMIT - 1) // (largest_input * taps)
    return (largest_weight + 1).bit_length()
