"""Plans a sweep: reads `--seeds` and `--grid`, and lists the members, each a validated config with a name. Without JAX."""

import ast
import copy
import hashlib
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import ConfigError, UserError, shown

MOST_MEMBERS = 10_000
_LONGEST_NAME = 120  # characters; file systems take 255, and reports put something behind it
_OPEN, _CLOSE = "([{", ")]}"


class Member(NamedTuple):
    """One training of a sweep."""

    name: str  # of its directory inside that of the sweep
    settings: dict[str, Any]  # the fields of the grid, by dotted name, and the seed
    config: ConfigDict  # validated


def plan(
    config: ConfigDict, seeds: str | None, grid: Sequence[str], given: Collection[str] = ()
) -> list[Member]:
    """Returns the members of a sweep, ordered by seed first: after an interruption all settings have equally many.

    Args:
      config: what all members have in common; it is not changed.
      seeds: a number of seeds, which are then 0, 1, ..., or a list of them with commas; None for the config's own seed.
      grid: for each field "config.FIELD=VALUE,VALUE,..."; the members are the product over the fields and the seeds.
      given: names of the fields that the command line sets, so that they cannot be in the grid too.

    Raises:
      UserError: a seed or a value cannot be read or appears twice, a field does not exist or has no effect on any training,
        a field is given twice, there are too many members, or several processes are asked for.
      ConfigError: a member's config is refused by `qresnet_jax.config.validate`.
    """
    if configs.has_processes(config):
        raise UserError(
            "a sweep trains in one process: leave config.distributed out, or train each run with a command of its own"
        )
    values = parse_grid(grid, config)
    for name in values:
        if name in given:
            raise UserError(
                f"config.{name} is given both by --config.{name} and in --grid: leave one of them out"
            )
    if seeds is not None:
        twice = next(
            (how for how, names in (("--config.seed", given), ("--grid", values)) if "seed" in names), ""
        )
        if twice:
            raise UserError(f"the seed is given both by --seeds and by {twice}: leave one of them out")
        values["seed"] = parse_seeds(seeds)
    else:
        values.setdefault("seed", [config.seed])
    values = {"seed": values["seed"], **values}
    count = math.prod(map(len, values.values()))
    if count > MOST_MEMBERS:
        raise UserError(
            f"the sweep would have {count:,} members, but at most {MOST_MEMBERS:,} are possible: give fewer seeds or values"
        )
    order = [*(name for name in values if name != "seed"), "seed"]  # in a name, the seed comes last
    members = []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        settings = {name: chosen[name] for name in order}
        members.append(Member(member_name(settings), settings, _config(config, settings)))
    for name in values:
        needs = [configs.unmet_need(name, member.config) for member in members]
        if all(needs):
            raise UserError(
                f"config.{name} has no effect without {needs[0]}, so all its values would give the same run: set that too, or "
                "leave the field out of --grid"
            )
    return members


def parse_seeds(text: str) -> list[int]:
    """Returns the seeds that `--seeds` names: "3" is 0, 1 and 2, and "0,3,7" is those three.

    Raises:
      UserError: the text is neither, or a seed appears twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", word) for word in words) or words == ["0"]:
        raise UserError(
            f"--seeds={text}: must be a number of seeds from 1, as in --seeds=5 for 0 to 4, or a list of seeds, as in "
            "--seeds=0,3,7"
        )
    numbers = [int(word) for word in words]
    if len(numbers) == 1 and numbers[0] > MOST_MEMBERS:
        raise UserError(
            f"--seeds={text}: are {numbers[0]:,} seeds, but at most {MOST_MEMBERS:,} are possible; the one seed {text} is "
            f"--config.seed={text}"
        )
    return list(range(numbers[0])) if len(numbers) == 1 else _distinct("--seeds", numbers)


def parse_together(text: str | None) -> int | None:
    """Returns how many runs are trained at once, or None for "auto".

    Raises:
      UserError: the text is neither "auto" nor a number from 1.
    """
    if text in (None, "auto"):
        return None
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise UserError(
            f"--together={text}: must be auto, or a number of runs that are trained at once, such as 4"
        )
    return int(text)


def parse_grid(words: Sequence[str], config: ConfigDict) -> dict[str, list[Any]]:
    """Returns the values of each field of a grid, by dotted name.

    Args:
      words: each "config.FIELD=VALUE,VALUE,..."; commas inside brackets or quotes do not separate.
      config: its values say which type a field has.

    Raises:
      UserError: see `plan`.
    """
    fields = configs.flatten(config)
    found: dict[str, list[Any]] = {}
    for word in words:
        field, equals, text = word.partition("=")
        name = field.removeprefix("config.")
        if not equals or name == field:
            raise UserError(
                f"--grid {word}: must name a field of the config and its values, as in "
                "--grid config.optim.learning_rate=0.05,0.1"
            )
        if name not in fields:
            section = f"config.{name} is a section: name one of its fields"
            raise UserError(f"--grid {word}: {configs.unknown_field(name, 'the field') or section}")
        if name.startswith(configs.WITHOUT_EFFECT):
            raise UserError(f"--grid {word}: config.{name} has no effect on what is learned: leave it out")
        if name in found:
            raise UserError(
                f"config.{name} has two --grid: give all its values in one, with commas between them"
            )
        texts = split_values(text)
        if not all(texts):
            raise UserError(f"--grid {word}: a value is empty: give values with commas between them")
        values = [_value(f"--grid {field}", part, fields[name]) for part in texts]
        found[name] = _distinct(f"--grid {field}", values)
    return found


def split_values(text: str) -> list[str]:
    """Splits a text at its commas, but not at those inside brackets or quotes: "(2,2,2),(4,4,4)" has two parts."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _value(flag: str, text: str, like: Any) -> Any:
    """Returns the value of a text, read as the flag of a field with the value `like` would be."""
    kinds = {bool: "True or False", int: "an integer", float: "a number", tuple: "a tuple such as (2,2,4)"}
    try:
        match like:
            case bool():
                return flags.BooleanParser().parse(text)
            case int():
                return flags.IntegerParser().parse(text)
            case float():
                return flags.FloatParser().parse(text)
            case tuple():
                value = ast.literal_eval(text)
                if not isinstance(value, tuple | list):
                    raise ValueError
                return tuple(value)
            case _:
                is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
                return text[1:-1] if is_quoted else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        expected = kinds[next(kind for kind in kinds if isinstance(like, kind))]
        raise UserError(f"{flag}: {shown(text)} must be {expected}") from None


def _distinct(flag: str, values: list[Any]) -> list[Any]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UserError(f"{flag}: the value {shown(value)} is given twice: leave one of them out")
    return values


def _config(base: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """Returns the validated config of a member; fields that refer to others follow them."""
    config = copy.deepcopy(base)
    with config.ignore_type():  # the values have the right types, and tuples may have another length
        config.update_from_flattened_dict(settings)
    config = config.copy_and_resolve_references()
    try:
        configs.validate(config)
    except ConfigError as error:
        others = [name for name in settings if name != "seed"]
        where = ", ".join(f"{name}={settings[name]}" for name in others)
        raise ConfigError(f"{error} (in the sweep, at {where})" if others else str(error)) from None
    return config


def member_name(settings: Mapping[str, Any]) -> str:
    """Returns the name of a member's directory, such as "learning_rate=0.1-seed=0".

    A field has the last part of its dotted name, or the whole name if another one has the same last part. Values are
    written without characters that a shell or a file system would take amiss; a hash then keeps names apart.
    """
    lasts = [name.rpartition(".")[2] for name in settings]
    parts = []
    for name, value in settings.items():
        last = name.rpartition(".")[2]
        text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{last if lasts.count(last) == 1 else name}={text}")
    full = "-".join(parts)
    safe = re.sub("[^A-Za-z0-9_.=+-]+", "-", full)
    if safe == full and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
