"""The profile `fast` with a second function, for several images at once."""

from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.fast.bitplanes import ALIGN
from qresnet_jax.ship.c.fast.layout import Layout, aligned
from qresnet_jax.ship.c.fast.profile import FastProfile
from qresnet_jax.ship.c.fast.stack import IMAGES, Stack
from qresnet_jax.ship.c.plan import Plan


class ManyProfile(FastProfile):
    """The C code for one plan, with `model_logits` and with `model_logits_many` for up to `IMAGES` images.

    Args:
      plan: the steps of the network for one size of images.
      stack: those that are computed for several images at once.
    """

    def __init__(self, plan: Plan, stack: Stack) -> None:
        self.stack = stack
        self.stacked = Layout(stack.plan, stack.inputs, stack.outputs, IMAGES)
        super().__init__(plan, self.stacked.offset_bits)
        self.start = aligned(self.layout.memory.nbytes)
        self.buffer_bytes = self.start + self.stacked.memory.nbytes + ALIGN - 1
        self.calls_many = self.written(self.stacked, self.constants.named("_many"))
        self.headers.add("stack.h")

    def function(self) -> str:
        """Returns the text of both functions."""
        plan, stack = self.layout.plan, self.stack
        return _FUNCTIONS.format(
            before="\n".join(self.calls[: stack.first]),
            many="\n".join(self.calls_many),
            after="\n".join(self.calls[stack.end :]),
            one=text.logits_function(ALIGN, [_BEFORE, *self.calls[stack.first : stack.end], _AFTER]),
            align=ALIGN,
            start=self.start,
            pixels=plan.height * plan.width * plan.network.channels,
            to_many="".join(self._copy(x, to_many=True) for x in stack.inputs),
            from_many="".join(self._copy(x, to_many=False) for x in stack.outputs),
        )

    def _copy(self, result: int, to_many: bool) -> str:
        """Returns a copy of one image's planes to those of all images, or back. A plane of a stream has 8 numbers for each byte."""
        plan = self.layout.plan
        channels, plane = plan.values[result].channels, self.layout.plane(result)
        levels = plan.values[result].kind == "levels"
        size, n = (plane, plan.planes(result) * channels) if levels else (2 * plane, 8 * channels)
        one = f"base + {self.layout.place(result)}", size
        many = f"many + {self.stacked.place(result)} + {size} * i", IMAGES * size
        (source, source_next), (to, to_next) = (one, many) if to_many else (many, one)
        return f"        model_copy({source}, {source_next}u, {size}u, {n}u, {to}, {to_next}u);\n"


_BEFORE = "    model_before(image, base);\n"
_AFTER = "    model_after(image, base, logits);\n"
_FUNCTIONS = """\
static void model_before(const uint8_t *image, uint8_t *base)
{{
    (void)image;
    (void)base;
{before}}}

static void model_many(uint8_t *base)
{{
{many}}}

static void model_after(const uint8_t *image, uint8_t *base, int32_t *logits)
{{
    (void)image;
{after}}}

{one}
void model_logits_many(const uint8_t *images, uint32_t n, int32_t *logits, void *buffer)
{{
    uint8_t *const base = (uint8_t *)buffer + (0u - (uintptr_t)buffer) % {align}u, *const many = base + {start};
    size_t i;
    for (i = 0; i < n; i++) {{
        model_before(images + i * {pixels}u, base);
{to_many}    }}
    model_many(many);
    for (i = 0; i < n; i++) {{
{from_many}        model_after(images + i * {pixels}u, base, logits + i * MODEL_CLASSES);
    }}
}}
"""
