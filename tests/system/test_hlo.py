"""The text of compiled programs: names of instructions, and what they were compiled from."""

import jax
import jax.numpy as jnp
import pytest

from qresnet_jax.system import hlo


@pytest.mark.parametrize(
    ("op_name", "words"),
    [
        ("jit(steps)/shard_map/jvp(stages.0.0)/cond/branch_0_fun/mul", "stages.0.0, forward: mul"),
        ("jit(steps)/transpose(jvp(stages.12.3))/transpose()/dot_general", "stages.12.3, backward: dot_general"),
        ("jit(steps)/shard_map/jvp(stem)/max", "stem, forward: max"),
        ("jit(steps)/transpose(jvp(checkpoint(stages.1.0)))/rematted_computation/add", "stages.1.0, recomputed: add"),
        ("jit(steps)/shard_map/(psum:transpose(jvp())/psum)", "backward: psum"),
        ("jit(steps)/shard_map/mul", "mul"),
        ("copy", "copy"),
    ],
)  # fmt: skip
def test_an_operation_is_described_by_its_block_and_direction(op_name, words):
    assert hlo.described(op_name) == words


def test_the_operations_of_a_compiled_program_have_sources():
    def loss(w, x):
        with jax.named_scope("stages.1.2"):
            return jnp.sum(jnp.tanh(x @ w) ** 2)

    text = jax.jit(jax.grad(loss)).lower(jnp.ones((8, 8)), jnp.ones((8, 8))).compile().as_text()
    assert hlo.module_name(text) == "jit_loss"
    found = set(hlo.sources(text).values())
    assert "stages.1.2, forward: dot_general" in found
    assert any(words.startswith("stages.1.2, backward: ") for words in found)
    assert {name for name in hlo.sources(text) if f"%{name} = " not in text} == set()


def test_an_instruction_without_a_source_is_named_by_the_product_that_it_calls():
    text = """HloModule m

%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %inner = f32[2]{0} convolution(%p), metadata={op_name="jit(f)/jvp(stem)/conv_general_dilated"}
  ROOT %last = f32[2]{0} add(%inner), metadata={op_name="jit(f)/add"}
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  ROOT %fusion.1 = f32[2]{0} fusion(%a), kind=kLoop, calls=%fused
}
"""
    assert hlo.sources(text)["fusion.1"] == "stem, forward: conv_general_dilated"


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="begins with HloModule, got 'module @jit_f'"):
        hlo.module_name("module @jit_f")


def test_collectives_count_what_a_device_gives():
    text = """HloModule m

ENTRY %main (a: f32[2,16]) -> f32[2,16] {
  %a = f32[2,16]{1,0:T(8,128)} parameter(0)
  %b = bf16[5]{0} parameter(1)
  %p = pred[3]{0} parameter(2)
  %s = f32[] constant(1)
  %all-reduce.1 = (f32[2,16]{1,0:T(8,128)}, f32[]) all-reduce(%a, /*index=1*/%s), channel_id=1, to_apply=%sum
  %start = (bf16[5]{0}, bf16[20]{0}) all-gather-start(%b), dimensions={0}
  %done = bf16[20]{0} all-gather-done(%start)
  %moved = pred[3]{0} collective-permute(%p), source_target_pairs={{0,1}}
  ROOT %last = f32[2,16]{1,0} get-tuple-element(%all-reduce.1), index=0
}
"""
    assert hlo.collectives(text) == [
        ("all-reduce.1", "all-reduce", 4 * 32 + 4),
        ("start", "all-gather", 10),
        ("moved", "collective-permute", 3),
    ]
    assert hlo.collectives(text.replace("all-", "some-").replace("collective-", "")) == []
