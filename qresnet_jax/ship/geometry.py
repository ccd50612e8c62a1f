"""Windows that move over images, and the sizes of what they leave, for images of any size."""

from typing import NamedTuple

Pair = tuple[int, int]


class Extent(NamedTuple):
    """The height or width of a result: `(size + add) // divide` for images of a size, or always `add` if `divide` is 0.

    A window of k pixels that moves by s pixels over n pixels with p pixels of border leaves `(n + p - k) // s + 1`. So one
    such formula describes any number of windows, and two results have equal sizes for all images if their formulas are equal.
    """

    add: int = 0
    divide: int = 1

    def at(self, size: int) -> int:
        """Returns the number of pixels for images of `size` pixels."""
        return (size + self.add) // self.divide if self.divide else self.add

    @property
    def fixed(self) -> int | None:
        """Returns the number of pixels if it is the same for all images, else None."""
        return None if self.divide else self.add

    @property
    def least(self) -> int:
        """Returns the least size of images that leaves a pixel."""
        return max(self.divide - self.add, 1) if self.divide else 1

    def seen_by(self, size: int, stride: int, border: int) -> "Extent":
        """Returns what a window leaves.

        Raises:
          ValueError: the window never fits.
        """
        if self.divide:
            return Extent(self.add + (border - size + stride) * self.divide, self.divide * stride)
        if self.add + border < size:
            raise ValueError(
                f"a window of {size} pixels does not fit {self.add} pixels and a border of {border}"
            )
        return Extent((self.add + border - size) // stride + 1, 0)


class Window(NamedTuple):
    """A window that moves over images. All numbers are along height and along width.

    Args:
      size: its pixels.
      strides: pixels from one place to the next.
      padding: pixels of border before and after the image, fewer than the window has.
    """

    size: Pair
    strides: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))

    @classmethod
    def centered(cls, size: Pair, stride: int = 1) -> "Window":
        """Returns a window with `(k - 1) // 2` pixels of border on both sides, as PyTorch pads."""
        top, left = ((k - 1) // 2 for k in size)
        return cls(size, (stride, stride), ((top, top), (left, left)))

    @property
    def is_centered(self) -> bool:
        """Returns whether it is a `centered` window of odd sizes, with a stride of 1 or 2."""
        stride = self.strides[0]
        return (
            self.size[0] % 2 == self.size[1] % 2 == 1
            and stride <= 2
            and self == Window.centered(self.size, stride)
        )

    def check(self) -> None:
        """Raises a ValueError if the numbers are not possible."""
        axes = zip(self.size, self.strides, self.padding, strict=True)
        if not all(
            1 <= k < 2**16 and 1 <= s < 2**16 and all(0 <= p < k for p in border) for k, s, border in axes
        ):
            raise ValueError(f"{self} must have sizes and strides from 1, and less padding than its size")

    def leaves(self, height: Extent, width: Extent) -> tuple[Extent, Extent]:
        """Returns the height and width of what it leaves of images.

        Raises:
          ValueError: the window never fits.
        """
        rows, columns = (
            extent.seen_by(k, s, sum(border))
            for extent, k, s, border in zip(
                (height, width), self.size, self.strides, self.padding, strict=True
            )
        )
        return rows, columns
