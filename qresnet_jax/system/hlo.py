"""Reads the text of a compiled program (XLA's HLO): its name, its collectives, and where its instructions come from."""

import re
from math import prod
from typing import NamedTuple

# A line that begins a computation, and one that is an instruction of it.
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
_CALLS, _OP_NAME = re.compile(r"calls=%?([\w.-]+)"), re.compile(r'op_name="([^"]+)"')
_MAIN = ("conv_general_dilated", "dot_general")  # what a fused instruction is named by, if it has one
# What devices exchange. An asynchronous one is two instructions, of which the second, "-done", does not count.
_COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast)"
    r"(?:-start)?\(([^)]*)\)"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")  # such as f32[3,3,16,16]
_BACKWARD, _FORWARD = "transpose(jvp(", "jvp("


def module_name(text: str) -> str:
    """Returns the name of a compiled program, such as `jit_steps`.

    Args:
      text: of a compiled program, from `compiled.as_text()`.

    Raises:
      ValueError: the text is not that of a compiled program.
    """
    found = re.match(r"HloModule ([\w.-]+)", text)
    if found is None:
        raise ValueError(f"the text of a compiled program begins with HloModule, got {text[:40]!r}")
    return found[1]


def sources(text: str) -> dict[str, str]:
    """Returns what each instruction of a compiled program was compiled from, in words.

    An instruction of several operations is named by the convolution or the matrix product in it, or else by one of
    them. Instructions that XLA itself added have no source.

    Args:
      text: of a compiled program, from `compiled.as_text()`.

    Returns:
      The sources by instruction, such as `{"fusion.18": "stages.0.0, backward: conv_general_dilated"}`.
    """
    inside: dict[str, str] = {}  # the operation that a computation is named by
    found: dict[str, str] = {}
    computation = ""
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            computation = begins[1]
        elif instruction := _INSTRUCTION.match(line):
            own, calls = _OP_NAME.search(line), _CALLS.search(line)
            called = inside.get(calls[1], "") if calls else ""  # XLA prints a computation before its callers
            op_name = called if own is None or called.endswith(_MAIN) else own[1]
            if op_name:
                found[instruction[1]] = described(op_name)
                if not inside.get(computation, "").endswith(_MAIN):
                    inside[computation] = op_name
    return found


def described(op_name: str) -> str:
    """Returns, in words, what JAX calls an operation: the block of the network, the direction, and the operation.

    Args:
      op_name: such as `jit(steps)/shard_map/transpose(jvp(stages.0.0))/conv_general_dilated`.
    """
    operation = op_name.rpartition("/")[2].strip("()")
    scope = re.search(r"stages\.\d+\.\d+|\b(?:stem|classifier|optimizer|batch)\b", op_name)
    direction = "backward" if _BACKWARD in op_name else "forward" if _FORWARD in op_name else ""
    if "rematted_computation" in op_name:
        direction = "recomputed"
    where = ", ".join(part for part in (scope[0] if scope else "", direction) if part)
    return f"{where}: {operation}" if where else operation


class Collective(NamedTuple):
    """An exchange between devices in a compiled program."""

    name: str  # that of its instruction
    kind: str  # such as "all-reduce"
    nbytes: int  # of the operands of one device


def collectives(text: str) -> list[Collective]:
    """Returns what the devices exchange in one call of a compiled program; what is in a loop is listed once.

    Args:
      text: of a compiled program, from `compiled.as_text()`.
    """
    sizes: dict[str, int] = {}
    found: list[Collective] = []
    for line in text.splitlines():
        if instruction := _INSTRUCTION.match(line):
            name, rest = instruction[1], line[instruction.end() - 1 :]
            collective = _COLLECTIVE.search(rest)
            # The result's type stands in front of the operation. An operand, whose name is all that an instruction
            # shows of it, has the type of the instruction of that name.
            sizes[name] = _nbytes(
                rest.partition("(")[0] if collective is None else rest[: collective.start()]
            )
            if collective:
                operands = re.findall(r"%([\w.-]+)", collective[2])
                found.append(Collective(name, collective[1], sum(sizes[operand] for operand in operands)))
    return found


def _nbytes(types: str) -> int:
    """Returns the bytes of all arrays in the text of a type, such as `(f32[2,16]{1,0}, s32[])`."""
    return sum(
        (8 if kind == "pred" else int(bits)) * prod(int(n) for n in shape.split(",") if n) // 8
        for kind, bits, shape in _ARRAY.findall(types)
    )
