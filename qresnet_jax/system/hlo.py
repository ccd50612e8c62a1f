"""Reads the text of a compiled program (XLA's HLO): its name, and what its instructions were compiled from."""

import re

# A line that begins a computation, and one that is an instruction of it.
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
_CALLS, _OP_NAME = re.compile(r"calls=%?([\w.-]+)"), re.compile(r'op_name="([^"]+)"')
_MAIN = ("conv_general_dilated", "dot_general")  # what a fused instruction is named by, if it has one
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
