"""The behavioural tests that a project writes in a YAML file, read strictly, and the cases that their templates make.

Three kinds (Ribeiro et al., CheckList, ACL 2020, section 2.1): ``minimum_functionality``, a text and its answer;
``invariance``, texts whose answers must agree; ``directional``, a change after which a score must not fall, or rise.
A text may have slots, ``{name}``, which the lists in ``slots`` fill in all combinations.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic import Field as Limit

from graft.config import Lines, Section, line_of, nearest, read_yaml, validate
from graft.errors import ConfigError, shown
from graft.evaluation.probes.files import project_file

if TYPE_CHECKING:
    from graft.tasks import State, Task

KEY = "evaluation.behaviour"
SLOT = re.compile(r"\{(\w+)\}")
MOST_CASES = 2000
"""The most cases of one test: a product of slots grows quickly."""
AnswerKind = Literal["label", "labels", "value", "text"]
ANSWERS: Mapping[str, AnswerKind] = {
    "text_classification": "label",
    "multi_label_classification": "labels",
    "regression": "value",
    "question_answering": "text",
    "translation": "text",
    "summarization": "text",
    "text_generation": "text",
    "chat": "text",
}
"""Task -> what its answer is; other tasks have no behavioural tests."""
FIRST_FIELD = ("text", "source", "prompt", "question")
"""The field that a case which is a text alone is for: the first of these that the task has."""

Text = Annotated[StrictStr, Limit(min_length=1)]
Values = Annotated[tuple[Text, ...], Limit(min_length=1)]
Case = Text | dict[str, Text | StrictInt | StrictFloat]
"""A text, or fields with their texts (and numeric columns)."""


class Says(Section):
    """What a generated text must say, or not."""

    contains: tuple[Text, ...] = ()
    """Texts that must all be in the answer, in these letters."""

    not_contains: tuple[Text, ...] = ()
    """Texts of which none may be in the answer."""

    equals: str | None = None
    """The answer itself, but for spaces around it."""

    @model_validator(mode="after")
    def _check_any(self) -> Says:
        if not self.contains and not self.not_contains and self.equals is None:
            raise ValueError("give one of contains, not_contains, equals; nothing is asked of the answer")
        return self

    def holds(self, text: str) -> bool:
        """Say whether an answer is as it must be."""
        return (
            all(one in text for one in self.contains)
            and not any(one in text for one in self.not_contains)
            and (self.equals is None or self.equals.strip() == text.strip())
        )

    def __str__(self) -> str:
        """Return it for people."""
        pairs = (("contains", self.contains), ("not", self.not_contains))
        parts = [f"{word} {' + '.join(map(repr, texts))}" for word, texts in pairs if texts]
        return ", ".join([*parts, *([] if self.equals is None else [repr(self.equals)])])


class OneTest(Section):
    """What every test has."""

    name: str = Limit(pattern=r"^[a-z0-9_]+$")
    """Its name in metrics.json and the report: small letters, digits and ``_``."""

    slots: dict[str, Values] = Limit(default_factory=dict)
    """Slot -> what may stand in it. Without slots, texts stay as they are, with their braces."""


class MinimumFunctionality(OneTest):
    """Texts with the answer that each must get."""

    kind: Literal["minimum_functionality"]
    """A text -> its answer."""

    texts: tuple[Case, ...] = Limit(min_length=1)
    """The texts, or templates of them."""

    expect: StrictStr | StrictInt | StrictFloat | tuple[StrictStr, ...] | Says
    """The answer: a label; a list of labels; a number; a text, or what it ``contains``, ``not_contains`` or
    ``equals``."""

    tolerance: float = Limit(default=0.0, ge=0)
    """By how much a number may be off."""


class Invariance(OneTest):
    """Texts whose answers must agree."""

    kind: Literal["invariance"]
    """Texts that mean the same to the task."""

    texts: tuple[Case, ...] = ()
    """Templates; the answers to all that one of them makes must be that to the first."""

    groups: tuple[Annotated[tuple[Case, ...], Limit(min_length=2)], ...] = ()
    """Groups of texts, each of two at least; slots are filled the same in all texts of a group."""

    vary: tuple[str, ...] = ()
    """The slots that vary within a group of ``texts``; default: all."""

    tolerance: float = Limit(default=0.0, ge=0)
    """By how much a number may differ."""

    @model_validator(mode="after")
    def _check_any(self) -> Invariance:
        if not self.texts and not self.groups:
            raise ValueError("give texts (templates) or groups; there is nothing to compare")
        if self.texts and not self.slots:
            raise ValueError("texts need slots, which make several texts of one; groups are texts as they are")
        return self


class Directional(OneTest):
    """Pairs of texts after whose change a score must not fall, or rise."""

    kind: Literal["directional"]
    """A change with a known direction."""

    pairs: tuple[Annotated[tuple[Case, ...], Limit(min_length=2, max_length=2)], ...] = Limit(min_length=1)
    """Each a text and what it is changed to; slots are filled the same in both."""

    label: StrictStr | None = None
    """The label whose score is compared; for numbers none."""

    must_not: Literal["fall", "rise"]
    """What the score must not do."""

    tolerance: float = Limit(default=0.0, ge=0)
    """By how much it may all the same."""


class BehaviourFile(Section):
    """A file of behavioural tests."""

    tests: tuple[Annotated[MinimumFunctionality | Invariance | Directional, Discriminator("kind")], ...] = Limit(
        min_length=1
    )
    """The tests."""


AnyTest = MinimumFunctionality | Invariance | Directional


@dataclass(frozen=True)
class Filled:
    """The rows of one case, which are judged together: one, or a first one and another."""

    test: AnyTest
    rows: tuple[Mapping[str, Any], ...]


def read(name: str, root: Path, task: Task, state: State | None) -> list[AnyTest]:
    """Return the tests of the file that ``evaluation.behaviour`` names; without a state labels are not looked at.

    Raises:
        ConfigError: the file is not there, a key or a value is wrong, or the task cannot have it; at ``file:line``.
    """
    if task.name not in ANSWERS:
        raise ConfigError(f"{KEY}: {task.name} has no behavioural tests; those that have: {', '.join(sorted(ANSWERS))}")
    found, lines = parsed(name, root)
    if problems := list(_problems(found, task, state, name, lines)):
        raise ConfigError.from_problems(f"{name}: {len(problems)} problem{'s' * (len(problems) > 1)}", problems)
    return found


def parsed(name: str, root: Path) -> tuple[list[AnyTest], Lines]:
    """Return the tests of a file and the line of each key, before any task is asked what it can answer.

    Raises:
        ConfigError: the file is not there, or a key or a value is wrong, each at ``file:line``.
    """
    raw, lines = read_yaml(project_file(name, root, KEY))
    return list(validate(BehaviourFile, raw, source=name, lines=lines).tests), lines


def _problems(tests: Sequence[AnyTest], task: Task, state: State | None, name: str, lines: Lines) -> Iterator[str]:
    """Yield what is wrong with tests in ways that their keys alone do not show."""
    seen: set[str] = set()
    for number, test in enumerate(tests):
        found = [
            *_wrong_answer(test, ANSWERS[task.name], state),
            *_wrong_slots(test),
            *_wrong_fields(test, task),
        ]
        if test.name in seen:
            found.append(("name", f"{shown(test.name)} is the name of an earlier test"))
        seen.add(test.name)
        for key, text in found:
            place = f"{name}:{line_of(lines, ('tests', number, key))}"
            yield f"{place}: tests.{number}.{key}: {text}"


def _wrong_answer(test: AnyTest, kind: AnswerKind, state: State | None) -> Iterator[tuple[str, str]]:
    """Yield key and problem where a test asks for an answer that the task does not give."""
    if isinstance(test, Directional):
        if kind == "text":
            yield "kind", "directional needs a score, and answers here are texts; use minimum_functionality"
        elif kind == "value" and test.label is not None:
            yield "label", f"the answers are numbers, which have no label (got {shown(test.label)}); leave it out"
        elif kind != "value":
            yield from _unknown("label", test.label, state)
    if isinstance(test, MinimumFunctionality):
        yield from _wrong_expected(test.expect, kind, state)
    if test.kind != "directional" and test.tolerance and kind != "value":
        yield "tolerance", "only numbers have one, and the answers of this task are none; leave it out"


def _wrong_expected(expect: Any, kind: AnswerKind, state: State | None) -> Iterator[tuple[str, str]]:
    match kind:
        case "label":
            yield from _unknown("expect", expect, state)
        case "labels":
            for one in expect if isinstance(expect, tuple) else [expect]:
                yield from _unknown("expect", one, state)
        case "value" if isinstance(expect, str | tuple | Says):
            yield "expect", f"must be a number, as the answers are (got {shown(expect)})"
        case "text" if not isinstance(expect, str | Says):
            yield "expect", f"must be a text, or contains, not_contains, equals (got {shown(expect)})"


def _unknown(key: str, label: Any, state: State | None) -> Iterator[tuple[str, str]]:
    if state is None:
        return
    known = list(state["labels"])
    if not isinstance(label, str):
        yield key, f"must be one of the labels (got {shown(label)}): {shown(', '.join(known))}"
    elif label not in known:
        near = nearest(label, known)
        yield key, f"no such label {shown(label)}; " + (f"did you mean {near!r}?" if near else shown(", ".join(known)))


def _wrong_slots(test: AnyTest) -> Iterator[tuple[str, str]]:
    used = {slot for key, case in _cases(test) for text in _texts(case) for slot in SLOT.findall(text)}
    if test.slots:
        for slot in sorted(used - test.slots.keys()):
            yield "slots", f"a text has {{{slot}}}, which no slot fills; there are {', '.join(test.slots)}"
        for slot in sorted(test.slots.keys() - used):
            yield "slots", f"no text has {{{slot}}}; remove the slot or write it into a text"
    vary = test.vary if isinstance(test, Invariance) else ()
    for slot in sorted(set(vary) - test.slots.keys()):
        yield "vary", f"no such slot {shown(slot)}; there are {', '.join(test.slots) or 'none'}"
    total = sum(_product(case, test) for _, case in _cases(test))
    if total > MOST_CASES:
        yield "slots", f"they make {total} texts; at most {MOST_CASES} are asked: shorten the lists"


def _wrong_fields(test: AnyTest, task: Task) -> Iterator[tuple[str, str]]:
    asked = [field.name for field in task.fields if not field.target]
    for key, case in _cases(test):
        if isinstance(case, dict):
            for name in case:
                if name not in asked and isinstance(case[name], str):
                    yield key, f"no such field {shown(name)}; the task reads {', '.join(asked)}"


def _cases(test: AnyTest) -> Iterator[tuple[str, Case]]:
    """Yield each text that stands in a test, with the key that it stands under."""
    match test:
        case MinimumFunctionality():
            yield from (("texts", one) for one in test.texts)
        case Invariance():
            yield from (("texts", one) for one in test.texts)
            yield from (("groups", one) for group in test.groups for one in group)
        case Directional():
            yield from (("pairs", one) for pair in test.pairs for one in pair)


def _texts(case: Case) -> list[str]:
    return [case] if isinstance(case, str) else [value for value in case.values() if isinstance(value, str)]


def _product(case: Case, test: AnyTest) -> int:
    total = 1
    for slot in {slot for text in _texts(case) for slot in SLOT.findall(text)}:
        total *= len(test.slots.get(slot, ("",)))
    return total


# -- cases


def cases_of(test: AnyTest, task: Task) -> list[Filled]:
    """Return the cases of a test, in the order of its texts and slots."""
    names = [field.name for field in task.fields]
    field = next(name for name in FIRST_FIELD if name in names)
    found: list[tuple[Mapping[str, Any], ...]]
    match test:
        case MinimumFunctionality():
            found = [(case,) for text in test.texts for (case,) in _filled((text,), test.slots, field)]
        case Invariance():
            found = [pair for text in test.texts for pair in _varied(text, test, field)]
            found += [
                (rows[0], row)
                for group in test.groups
                for rows in _filled(group, test.slots, field)
                for row in rows[1:]
            ]
        case Directional():
            found = [rows for pair in test.pairs for rows in _filled(pair, test.slots, field)]
    return [Filled(test, tuple(rows)) for rows in found]


def _varied(text: Case, test: Invariance, field: str) -> Iterator[tuple[Mapping[str, Any], ...]]:
    """Yield the first text of each group with each other one; groups differ in the slots that do not vary."""
    vary = set(test.vary or test.slots)
    fixed = {slot: values for slot, values in test.slots.items() if slot not in vary}
    varying = {slot: values for slot, values in test.slots.items() if slot in vary}
    for (outer,) in _filled((text,), fixed, field):
        rows = [row for (row,) in _filled((dict(outer),), varying, field)]
        yield from ((rows[0], row) for row in rows[1:])


def _filled(
    texts: Sequence[Case], slots: Mapping[str, Sequence[str]], field: str
) -> Iterator[tuple[dict[str, Any], ...]]:
    """Yield the texts as rows, with each combination of the slots that they have, the same in all of them."""
    rows: list[dict[str, Any]] = [{field: text} if isinstance(text, str) else dict(text) for text in texts]
    used = {slot for row in rows for text in _texts(row) for slot in SLOT.findall(text)}
    names = [slot for slot in slots if slot in used]
    for values in itertools.product(*(slots[slot] for slot in names)):
        chosen = dict(zip(names, values, strict=True))
        yield tuple({key: _put(value, chosen) for key, value in row.items()} for row in rows)


def _put(value: Any, chosen: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    return SLOT.sub(lambda found: chosen.get(found[1], found[0]), value)
