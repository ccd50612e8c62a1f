"""Says which sums of integers float32 computes exactly, in any order of summation. It does not import JAX."""

SUM_LIMIT = 2**24  # integers of smaller magnitude, and all sums of them that stay below, are exact in float32


def most_weight_bits(largest_input: int, taps: int) -> int:
    """Returns the most bits of signed integer weights for which every sum of products stays below `SUM_LIMIT`.

    Args:
      largest_input: the largest magnitude of an input.
      taps: how many products a sum has, which is `kernel height * kernel width * input channels` for a
        convolution.
    """
    largest_weight = (SUM_LIMIT - 1) // (largest_input * taps)
    return (largest_weight + 1).bit_length()
