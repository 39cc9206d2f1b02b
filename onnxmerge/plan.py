"""What is decided about a model, as data: scores, selection, and the plan that can be saved.

``keep`` is always integer indices into a group's channels, in ascending order.

A plan's file is TOML or JSON, by its suffix. It lists the channels of every group best first, so that any
width is a beginning of the list: whoever changes the number ``after`` has changed the plan.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.arguments import nearest
from onnxmerge.errors import UsageError
from onnxmerge.graph.output import atomic_write

# Version 1 listed the kept channels of each group by its name, and nothing else of it.
PLAN_VERSION = 2
_GROUP_KEYS = ("name", "nodes", "before", "after", "channels")
_KEYS = ("plan_version", "fingerprint", "method", "data", "groups")
_PER_LINE = 20


@dataclass(frozen=True)
class Scores:
    """How much the channels of every group matter.

    Attributes:
        values: saliency of every channel, float64 [C] per group name: larger is more worth keeping.
        curves: where the criterion knows, what keeping only the best 0, 1, .., C channels of a group costs,
            float64 [C + 1] per group name, in a unit that is the same for all groups.
        order: where the criterion knows more than the values tell, a group's channels, the best first,
            int64 [C] per group name; values do not increase along it.
        measured: where it was measured at the outputs, what a unit of a group's costs counts beside one of
            the middle group's, by group name; ``values`` are in this unit already.
    """

    values: Mapping[str, np.ndarray]
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    order: Mapping[str, np.ndarray] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)

    def best_first(self) -> dict[str, np.ndarray]:
        """The channels of every group, the best first, int64 [C]; of equal ones the higher index."""
        return {
            name: self.order[name] if name in self.order else np.argsort(values, kind="stable")[::-1]
            for name, values in self.values.items()
        }


@dataclass(frozen=True)
class Selection:
    """The channels that stay, int64 indices per group name; a group that is not named stays whole."""

    keep: Mapping[str, np.ndarray]

    @property
    def widths(self) -> tuple[tuple[str, int], ...]:
        """The number of channels that stay, by group: what time and multiplications depend on."""
        return tuple((name, len(index)) for name, index in self.keep.items())

    @property
    def emptied(self) -> list[str]:
        """The groups that keep no channel."""
        return [name for name, index in self.keep.items() if not len(index)]


@dataclass(frozen=True, repr=False)
class Plan:
    """A decision that can be saved, read, edited and applied later to the same model.

    Attributes:
        fingerprint: sha256 of the model file the plan belongs to.
        keep: kept channel indices per group name.
        method: how it was made, and so how it is applied: ``criterion``, ``allocation``, ``compensation``
            and their options ``threshold``, ``trade_off``, ``shift_weight``, ``spread_weight``, ``patches``
            and ``seed``; ``recover`` how it was taught, or None; ``precision`` and ``target`` what it was
            turned into in the end, where it was; ``fit_on`` what it was fitted to, see ``outcomes.Choice``;
            ``why`` is for people. What is not named is taken from the options of the run that applies the
            plan.
        order: all channels of a group, the best first, by group name; the kept ones are its beginning.
        nodes: the names of the nodes that a group's channels pass through.
        data: what it was made from, and how that was read: ``samples``, ``shapes`` and ``images`` count where
            the run that applies the plan says nothing else; ``source`` is for people.
    """

    fingerprint: str
    keep: Mapping[str, tuple[int, ...]]
    method: Mapping[str, object] = field(default_factory=dict)
    order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        kept = sum(map(len, self.keep.values()))
        return f"Plan({kept} channels stay in {len(self.keep)} groups, of the model {self.fingerprint[:12]})"

    @property
    def selection(self) -> Selection:
        return Selection({name: np.array(index, dtype=np.int64) for name, index in self.keep.items()})

    def with_widths(self, widths: Mapping[str, int]) -> Plan:
        """The plan with other numbers of channels in some groups, the best ones of each.

        Raises:
            UsageError: a group that the plan does not have, or more channels than it lists.
        """
        keep = dict(self.keep)
        for name, after in widths.items():
            if name not in keep:
                raise UsageError(f"the plan has no group '{name}'{nearest(name, keep)}")
            keep[name] = _best(name, self._listed(name), after)
        return replace(self, keep=keep)

    def _listed(self, name: str) -> tuple[int, ...]:
        """The channels of a group that are known, the kept ones first, within both the best first."""
        kept = set(self.keep[name])
        order = self.order.get(name, ())
        unranked = sorted(kept - set(order))
        return (*(i for i in order if i in kept), *unranked, *(i for i in order if i not in kept))

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Every group as a file has it."""
        for name, index in self.keep.items():
            before = {"before": len(self.order[name])} if name in self.order else {}
            nodes = {"nodes": list(self.nodes[name])} if name in self.nodes else {}
            yield {"name": name, **nodes, **before, "after": len(index), "channels": list(self._listed(name))}

    def to_json(self) -> str:
        head = {"plan_version": PLAN_VERSION, "fingerprint": self.fingerprint, "method": dict(self.method)}
        content = head | ({"data": dict(self.data)} if self.data else {})
        # Lists of channels would take a line for each.
        groups = ",\n".join(f"    {json.dumps(group, ensure_ascii=False)}" for group in self._groups())
        text = json.dumps(content, indent=2, ensure_ascii=False)
        return f'{text[:-2]},\n  "groups": [\n{groups}\n  ]\n}}'

    def to_toml(self) -> str:
        """The text of a file that explains itself; what is None is left out."""
        lines = [
            "# A plan of onnxmerge: how many channels of every group stay, and which.",
            "# Edit a width (after = ...) and apply the plan: onnxmerge apply IN PLAN OUT",
            "# Channels are listed best first, and the first `after` of them stay.",
            f"plan_version = {PLAN_VERSION}",
            f"fingerprint = {_toml(self.fingerprint)}",
        ]
        for title, table in (("method", self.method), ("data", self.data)):
            if table:
                lines += ["", f"[{title}]", *_toml_lines(table)]
        for group in self._groups():
            channels, after = group.pop("channels"), group["after"]
            lines += ["", "[[groups]]", *_toml_lines(group), "channels = ["]
            lines += _rows(channels[:after])
            if channels[after:]:
                lines += ["  # These go.", *_rows(channels[after:])]
            lines += ["]"]
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Raises UsageError where the text is no plan that this version reads."""
        try:
            return _plan(json.loads(text))
        except json.JSONDecodeError as error:
            raise UsageError(f"this is not a plan: no JSON ({error})") from error

    @staticmethod
    def from_toml(text: str) -> Plan:
        """Raises UsageError where the text is no plan that this version reads."""
        try:
            return _plan(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"this is not a plan: no TOML ({error})") from error

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan, JSON where the suffix says so or the text begins like it, else TOML.

        Raises:
            UsageError: the file cannot be read or holds no plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot read the plan {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: this is not a plan: no text in UTF-8") from error
        as_json = Path(path).suffix.lower() == ".json" or text.lstrip().startswith("{")
        try:
            return Plan.from_json(text) if as_json else Plan.from_toml(text)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the plan atomically: JSON where the suffix is ``.json``, else TOML.

        Raises:
            OutputError: the file cannot be written.
        """
        as_json = Path(path).suffix.lower() == ".json"
        with atomic_write(Path(path)) as part:
            part.write_text(self.to_json() + "\n" if as_json else self.to_toml(), encoding="utf-8")


def _plan(content: Any) -> Plan:
    """A plan from what its file says."""
    if not isinstance(content, dict) or "plan_version" not in content:
        raise UsageError("this is not a plan: it has no plan_version")
    version = content["plan_version"]
    if version == 1:
        return _first_version(content)
    if version != PLAN_VERSION:
        raise UsageError(f"the plan has version {version!r}, this program reads 1 and {PLAN_VERSION}")
    _refuse_unknown(content, _KEYS, "a plan")
    fingerprint, groups = content.get("fingerprint"), content.get("groups")
    if not isinstance(fingerprint, str) or not isinstance(groups, list):
        raise UsageError("this is not a plan: it needs a text fingerprint and a list of groups")
    tables = {key: content.get(key, {}) for key in ("method", "data")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"this is not a plan: {key} is a table of options, not {table!r}")
    plan = Plan(fingerprint, {}, tables["method"], {}, {}, tables["data"])
    keep, order, nodes = dict(plan.keep), dict(plan.order), dict(plan.nodes)
    for number, group in enumerate(groups, start=1):
        name, channels = _group(group, number)
        if name in keep:
            raise UsageError(f"the plan has two groups '{name}'")
        keep[name] = _best(name, channels, group["after"])
        if len(channels) == group.get("before"):
            order[name] = channels
        if "nodes" in group:
            nodes[name] = tuple(str(node) for node in group["nodes"])
    return replace(plan, keep=keep, order=order, nodes=nodes)


def _group(group: Any, number: int) -> tuple[str, tuple[int, ...]]:
    """The name and the channels of a group, what is said of it checked."""
    if not isinstance(group, dict) or not isinstance(group.get("name"), str):
        raise UsageError(f"group {number} of the plan has no name")
    name = group["name"]
    _refuse_unknown(group, _GROUP_KEYS, f"the group '{name}'")
    channels = group.get("channels")
    if not isinstance(channels, list) or not all(_is_whole(i) and i >= 0 for i in channels):
        raise UsageError(f"the group '{name}' of the plan needs channels: a list of whole numbers from 0 on")
    twice = next((channel for channel, count in Counter(channels).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"the group '{name}' of the plan lists channel {twice} twice")
    if not _is_whole(group.get("after")):
        raise UsageError(f"the group '{name}' of the plan needs after: how many of its channels stay")
    before = group.get("before", len(channels))
    if not _is_whole(before) or before < len(channels):
        raise UsageError(f"the group '{name}' of the plan lists {len(channels)} channels of {before!r}")
    if not isinstance(group.get("nodes", []), list):
        raise UsageError(f"the nodes of the group '{name}' of the plan are a list of names")
    return name, tuple(channels)


def _first_version(content: Mapping[str, Any]) -> Plan:
    try:
        keep = {name: tuple(sorted({int(i) for i in index})) for name, index in content["keep"].items()}
        return Plan(content["fingerprint"], keep, dict(content.get("method", {})))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"this is not a plan: {error!r}") from error


def _best(name: str, channels: Sequence[int], after: int) -> tuple[int, ...]:
    """The first channels of a list, ascending."""
    if not 0 <= after <= len(channels):
        raise UsageError(
            f"after = {after} for the group '{name}' of the plan: it lists {len(channels)} channels, so that "
            f"0 to {len(channels)} of them can stay"
        )
    return tuple(sorted(channels[:after]))


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{what} has no '{key}'{nearest(key, known)}; it has {', '.join(known)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    """A value in TOML; texts, numbers and truth values are written as in JSON."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _rows(numbers: Sequence[int]) -> list[str]:
    starts = range(0, len(numbers), _PER_LINE)
    return [f"  {', '.join(map(str, numbers[start : start + _PER_LINE]))}," for start in starts]
