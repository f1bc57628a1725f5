"""What two revisions of the data differ in: rows added, removed and changed, labels, lengths, and checks.

Parts with equal bytes are on both sides and are not read; where rows have pictures, those that a part names are equal
too, and it is read once for their names. Of each other part two 64-bit digests a row are kept (of its id, of its
values), with counts of labels and lengths, in ``.graft/store/diff``: a part is read once, whatever it is compared
with. The digests are matched in passes over a share of them each, so memory does not grow with the data. By chance two
of five million rows share a digest once in a million comparisons.

A row with an id that the other side has is the same row, else equal values make it so; several rows with one id are
matched by their values first.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import part_pictures, tasks
from graft.data import TEST_SETS, DataConfig, Record, pictures_among, read_part
from graft.errors import shown
from graft.identity import digest_bytes, digest_json, short_digest
from graft.part_results import Job, PartResults, key_of
from graft.privacy.section import PrivacyConfig
from graft.quarantine import in_words
from graft.reading import is_readable
from graft.workspace import SPLITS, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

    from graft.revisions import Revision
    from graft.tasks import Field
    from graft.workspace import Workspace

STAGE = "diff"
BUCKET_ROWS = 1 << 20
"""About how many rows are matched in one pass."""
EXAMPLES = 3
"""How many rows of a kind are shown of each split."""
KINDS = ("added", "removed", "changed")
SHARES = {"p5": 0.05, "median": 0.5, "p95": 0.95}


# -- one part


@dataclass(frozen=True)
class Part:
    """One part file of one side."""

    name: str
    """``train/part-0000.jsonl``."""
    key: str
    """Equal keys: equal rows, read in the same way."""
    side: Revision
    pictures: tuple[str, ...] = ()
    """The pictures that its rows need, by their paths below data/."""

    @property
    def split(self) -> str:
        return self.name.partition("/")[0]

    @property
    def path(self) -> Path:
        return self.side.place.data / self.name

    def records(self) -> Iterator[Record]:
        """Yield its readable rows, uncleaned."""
        for one in read_part(self.path, self.side.place.root, _fields(self.side), self.side.config.uncleaned):
            if isinstance(one, Record):
                yield one


def _fields(side: Revision) -> tuple[Field, ...]:
    found: tuple[Field, ...] = tasks.get(side.task.name).fields_of(side.task)
    return found


def _parts(side: Revision, workspace: Workspace) -> list[Part]:
    fields, config = _fields(side), side.config.uncleaned
    made_of = {
        "fields": [[one.name, one.type, one.required, one.text] for one in fields],
        "data": config.model_dump(mode="json"),
    }
    names = sorted(name for name in side.files if name.partition("/")[0] in SPLITS and is_readable(Path(name)))
    pictures = _pictures(side, names, workspace) if pictures_among(side.files, fields) else {}
    found = []
    for name in names:
        needed = pictures.get(name, {})
        key = key_of(Path(name), side.files[name], {**made_of, "pictures": digest_json(needed)})
        found.append(Part(name, key, side, tuple(needed)))
    return found


def _pictures(side: Revision, names: Sequence[str], workspace: Workspace) -> dict[str, dict[str, str]]:
    """Return for each part the pictures that its rows need, with their digests: those that it names.

    All of them, where a name is no file's of the data: it may lead to one by links.
    """
    among = pictures_among(side.files, _fields(side))
    paths = [side.place.data / name for name in names]
    results = PartResults.of(workspace, part_pictures.STAGE)
    one = part_pictures.naming(side.place, _fields(side), side.config.uncleaned, side.files, paths, results)
    side.bring([job.path.relative_to(side.place.data).as_posix() for job in one.missing()])
    one.make()
    found = {}
    for path, named in part_pictures.names_of(one).items():
        needed = {each: among[each] for each in named} if among.keys() >= set(named) else among
        found[path.relative_to(side.place.data).as_posix()] = needed
    return found


@dataclass(frozen=True)
class Reading:
    """What a process needs to read a part: picklable."""

    path: Path
    root: Path
    fields: tuple[Field, ...]
    config: DataConfig


def read(reading: Reading, folder: Path, add: Callable[[int], None]) -> None:
    """Write ``rows.npy``, digests of id and values of each readable row (uint64 [rows, 2]), and ``profile.json``."""
    import numpy as np

    digests: list[tuple[int, int]] = []
    unreadable = 0
    labels: dict[str, Counter[str]] = {}
    lengths: dict[str, Counter[int]] = {}
    for one in read_part(reading.path, reading.root, reading.fields, reading.config):
        if not isinstance(one, Record):
            unreadable += 1
            continue
        values = {each.name: _plain(each, one.row[each.name]) for each in reading.fields}
        digests.append(
            (0 if one.id is None else short_digest(one.id) or 1, short_digest(json.dumps(values, sort_keys=True)))
        )
        for each in reading.fields:
            value = values[each.name]
            if each.type in ("label", "labels") and value is not None:
                labels.setdefault(each.name, Counter()).update(value if isinstance(value, list) else [value])
            if each.text and value is not None:
                lengths.setdefault(each.name, Counter())[_length(value)] += 1
        add(1)
    np.save(folder / "rows.npy", np.array(digests, dtype=np.uint64).reshape(-1, 2))
    profile = {"rows": len(digests), "unreadable": unreadable, "labels": labels, "lengths": lengths}
    write_json(folder / "profile.json", profile)


def _plain(field: Field, value: Any) -> Any:
    """Return a value as JSON can hold it: equal for equal values, whatever the format of the file."""
    if isinstance(value, bytes):
        return digest_bytes(value)
    return float(value) if field.type == "number" and value is not None else value


def _length(value: Any) -> int:
    """Return the characters of a text field: of all its items where it is a list."""
    if isinstance(value, str):
        return len(value)
    items = value["text"] if isinstance(value, dict) else value
    return sum(len(one["content"] if isinstance(one, dict) else str(one)) for one in items)


# -- two revisions


@dataclass
class SplitDiff:
    """What a split differs in. Counts of rows are of the parts that differ."""

    unchanged_parts: int = 0
    parts: tuple[int, int] = (0, 0)
    """How many parts of each side differ."""
    rows: tuple[int, int] = (0, 0)
    unreadable: tuple[int, int] = (0, 0)
    added: int = 0
    removed: int = 0
    changed: int = 0
    by_id: bool = False
    """Whether rows are matched by their ids."""
    labels: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """Field -> label -> rows of each side."""
    lengths: dict[str, tuple[dict[str, float], dict[str, float]]] = field(default_factory=dict)
    """Text field -> rows, mean, quantiles and largest number of characters of each side."""


@dataclass(frozen=True)
class Example:
    """One row that differs, without what is private in it; ``before`` or ``after`` is None where it is not there."""

    split: str
    kind: str
    before: dict[str, str] | None
    after: dict[str, str] | None
    place_before: str | None
    place_after: str | None


@dataclass(frozen=True)
class CheckDiff:
    """A check whose result or severity differs; None: that side has no such check."""

    check: str
    column: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class DataDiff:
    """All of it; ``whole``: labels and lengths are also of the parts that both sides have."""

    a: dict[str, Any]
    b: dict[str, Any]
    whole: bool
    splits: dict[str, SplitDiff]
    moved: int
    """How many rows stand in another split than before."""
    examples: list[Example]
    checks: list[CheckDiff] | None
    """None: one side has no verdict."""
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return asdict(self)

    @property
    def is_empty(self) -> bool:
        """Whether the data is the same, row by row."""
        return not any(one.added or one.removed or one.changed for one in self.splits.values())


def compare(workspace: Workspace, a: Revision, b: Revision, *, whole: bool = False) -> DataDiff:
    """Compare the data of two revisions.

    Args:
        workspace: the project, whose store keeps what was read.
        a: the earlier side.
        b: the later side.
        whole: also read the parts that both sides have, for labels and lengths.

    Raises:
        ResourceMissing: a part is neither in the DVC cache nor in its remote.
    """
    sides = [_parts(a, workspace), _parts(b, workspace)]
    common = Counter(part.split + part.key for part in sides[0]) & Counter(part.split + part.key for part in sides[1])
    differing = [list(_without(parts, common)) for parts in sides]
    results = PartResults.of(workspace, STAGE)
    _read_all(results, [*differing[0], *differing[1], *(sides[0] if whole else [])])
    splits, examples = {}, list[Example]()
    for split in SPLITS:
        found = [_Rows(results, [part for part in parts if part.split == split]) for parts in differing]
        one = SplitDiff(
            unchanged_parts=sum(count for key, count in common.items() if key.startswith(split)),
            parts=(len(found[0].parts), len(found[1].parts)),
            rows=(found[0].total("rows"), found[1].total("rows")),
            unreadable=(found[0].total("unreadable"), found[1].total("unreadable")),
            by_id=found[0].has_ids and found[1].has_ids,
        )
        matched = _matched(*found, by_id=one.by_id)
        one.added, one.removed, one.changed = (matched.counts[kind] for kind in KINDS)
        shown_parts = [
            [part for part in parts if part.split == split] if whole else side.parts
            for parts, side in zip(sides, found, strict=True)
        ]
        one.labels, one.lengths = _distributions(*(_Rows(results, parts) for parts in shown_parts))
        splits[split] = one
        examples += _examples(split, matched, *found)
    together = [_Rows(results, parts) for parts in differing]
    all_rows = _matched(*together, by_id=all(one.has_ids for one in together), examples=0)
    moved = sum(one.added for one in splits.values()) - all_rows.counts["added"]
    notes = [f"{side.name}: {side.note}" for side in (a, b) if side.note]
    if [one.name for one in _fields(a)] != [one.name for one in _fields(b)]:
        notes.append("the task's fields differ, so that no row is the same")
    notes += _test_sets(a, b)
    checks = _checks(a.verdict, b.verdict) if a.verdict and b.verdict else None
    notes += [
        f"{side.name}: no result of validate is recorded for this data; `graft run` there makes one"
        for side in (a, b)
        if side.verdict is None
    ]
    return DataDiff(_named(a), _named(b), whole, splits, max(0, moved), examples, checks, notes)


def _test_sets(a: Revision, b: Revision) -> Iterator[str]:
    """Yield which test sets from elsewhere came, went, or have other files; their rows are not compared."""
    before, after = (_files_of_test_sets(one) for one in (a, b))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            how = "added" if name not in before else "removed" if name not in after else "changed"
            yield f"data/{TEST_SETS}/{name}: {how}"


def _files_of_test_sets(side: Revision) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path, digest in side.files.items():
        folder, _, inner = path.partition("/")
        if folder == TEST_SETS:
            name, _, file = inner.partition("/")
            found.setdefault(name, {})[file] = digest
    return found


def _named(side: Revision) -> dict[str, Any]:
    return {"name": side.name, "commit": side.commit, "data": side.data}


def _without(parts: Sequence[Part], common: Mapping[str, int]) -> Iterator[Part]:
    """Yield the parts that only this side has, of equal ones as many as it has more."""
    left = Counter(common)
    for part in parts:
        key = part.split + part.key
        if left[key] > 0:
            left[key] -= 1
        else:
            yield part


def _read_all(results: PartResults, parts: Sequence[Part]) -> None:
    """Read the parts that nothing is known of."""
    missing = {part.key: part for part in parts if results.find(part.key) is None}
    for side in {id(part.side): part.side for part in missing.values()}.values():
        side.bring({name for part in missing.values() if part.side is side for name in (part.name, *part.pictures)})
    jobs = [
        Job(key, part.path, Reading(part.path, part.side.place.root, _fields(part.side), part.side.config.uncleaned))
        for key, part in missing.items()
    ]
    results.make(jobs, read)


class _Rows:
    """The rows of some parts of one side: their digests, mapped from the store, and their profiles added up."""

    def __init__(self, results: PartResults, parts: Sequence[Part]) -> None:
        import numpy as np

        self.parts = parts
        folders = [results.folder / part.key for part in parts]
        self.digests: list[np.ndarray] = [np.load(one / "rows.npy", mmap_mode="r") for one in folders]
        self.profiles: list[dict[str, Any]] = [read_json(one / "profile.json") for one in folders]

    def total(self, name: str) -> int:
        return sum(one[name] for one in self.profiles)

    @property
    def has_ids(self) -> bool:
        """Whether any row has an id; a side without rows contradicts none."""
        return not self.total("rows") or any(bool(one[:, 0].any()) for one in self.digests)

    def counted(self, kind: str) -> dict[str, Counter[str]]:
        """Return the counts of labels or lengths by field."""
        found: dict[str, Counter[str]] = {}
        for one in self.profiles:
            for name, counts in one[kind].items():
                found.setdefault(name, Counter()).update(counts)
        return found


@dataclass
class _Matched:
    """How many rows of two sides differ, and where a few of them stand: (part, row) of each side."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[tuple[tuple[int, int] | None, tuple[int, int] | None]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )


def _matched(a: _Rows, b: _Rows, *, by_id: bool, examples: int = EXAMPLES) -> _Matched:
    """Match the rows of two sides, a share of their keys at a time."""
    found = _Matched()
    passes = max(1, math.ceil((a.total("rows") + b.total("rows")) / BUCKET_ROWS))
    for number in range(passes):
        _match_share(a, b, found, by_id=by_id, share=(number, passes), examples=examples)
    return found


def _match_share(a: _Rows, b: _Rows, found: _Matched, *, by_id: bool, share: tuple[int, int], examples: int) -> None:
    import numpy as np

    columns = [
        piece for side, rows in enumerate((a, b)) for piece in _pieces(rows.digests, side, by_id=by_id, share=share)
    ]
    if not columns:
        return
    key, values, side, part, row = (np.concatenate(each) for each in zip(*columns, strict=True))
    order = np.lexsort((row, part, side, values, key))
    key, values, side, part, row = (each[order] for each in (key, values, side, part, row))
    # Rows with equal key and values: what one side has more of is left over.
    starts = np.flatnonzero(np.r_[True, (key[1:] != key[:-1]) | (values[1:] != values[:-1])])
    in_a = np.add.reduceat(side == 0, starts, dtype=np.int64)
    in_b = np.add.reduceat(side == 1, starts, dtype=np.int64)
    rest_a, rest_b = in_a - np.minimum(in_a, in_b), in_b - np.minimum(in_a, in_b)
    # Of what is left over under one key, a row of each side are one row that changed.
    keys = np.flatnonzero(np.r_[True, key[starts][1:] != key[starts][:-1]])
    left_a, left_b = np.add.reduceat(rest_a, keys), np.add.reduceat(rest_b, keys)
    changed = np.minimum(left_a, left_b)
    counts = {"added": left_b - changed, "removed": left_a - changed, "changed": changed}
    ends = np.r_[keys[1:], len(starts)]
    for kind, each in counts.items():
        found.counts[kind] += int(each.sum())
        for number in np.flatnonzero(each)[: max(0, examples - len(found.places[kind]))]:
            groups = range(int(keys[number]), int(ends[number]))
            first = next((int(starts[one]) for one in groups if rest_a[one]), None)
            later = next((int(starts[one] + in_a[one]) for one in groups if rest_b[one]), None)
            before = None if kind == "added" or first is None else (int(part[first]), int(row[first]))
            after = None if kind == "removed" or later is None else (int(part[later]), int(row[later]))
            found.places[kind].append((before, after))


def _pieces(
    digests: Sequence[np.ndarray], side: int, *, by_id: bool, share: tuple[int, int]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield key, values, side, part and row of the rows of each part whose key falls into a share."""
    import numpy as np

    number, passes = share
    for part, rows in enumerate(digests):
        key = np.where(rows[:, 0] != 0, rows[:, 0], rows[:, 1]) if by_id else np.asarray(rows[:, 1])
        chosen = np.flatnonzero(key % np.uint64(passes) == number)
        if len(chosen):
            yield (
                key[chosen],
                rows[chosen, 1],
                np.full(len(chosen), side, np.int8),
                np.full(len(chosen), part, np.int32),
                chosen,
            )


# -- what is shown


def _distributions(a: _Rows, b: _Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the labels and the lengths of two sides."""
    labels_a, labels_b = a.counted("labels"), b.counted("labels")
    labels = {
        name: {
            label: (labels_a.get(name, Counter())[label], labels_b.get(name, Counter())[label])
            for label in sorted({*labels_a.get(name, ()), *labels_b.get(name, ())})
        }
        for name in sorted({*labels_a, *labels_b})
    }
    lengths_a, lengths_b = a.counted("lengths"), b.counted("lengths")
    lengths = {
        name: (_described(lengths_a.get(name, Counter())), _described(lengths_b.get(name, Counter())))
        for name in sorted({*lengths_a, *lengths_b})
    }
    return labels, lengths


def _described(counts: Mapping[str, int]) -> dict[str, float]:
    """Return how many texts there are, and the mean, some quantiles and the largest of their lengths."""
    total = sum(counts.values())
    if not total:
        return {"rows": 0}
    by_length = sorted((int(length), count) for length, count in counts.items())
    found: dict[str, float] = {"rows": total}
    found["mean"] = sum(length * count for length, count in by_length) / total
    for name, share in SHARES.items():
        seen = 0
        for length, count in by_length:
            seen += count
            if seen >= share * total:
                found[name] = length
                break
    return {**found, "largest": by_length[-1][0]}


def _examples(split: str, matched: _Matched, a: _Rows, b: _Rows) -> Iterator[Example]:
    """Yield some rows that differ, read again at their places."""
    rows = [
        _rows_at(side.parts, [pair[number] for pairs in matched.places.values() for pair in pairs if pair[number]])
        for number, side in enumerate((a, b))
    ]
    privacy = next((part.side.config.privacy for one in (b, a) for part in one.parts), PrivacyConfig())
    for kind, pairs in matched.places.items():
        for first, later in pairs:
            before, after = rows[0].get(first), rows[1].get(later)
            # Both at once, so that one value has one placeholder.
            shown_rows = privacy.redacted([_texts(one) for one in (before, after)])
            places = [one.place if one else None for one in (before, after)]
            yield Example(split, kind, _shortened(shown_rows[0]), _shortened(shown_rows[1]), *places)


def _rows_at(parts: Sequence[Part], places: Sequence[tuple[int, int] | None]) -> dict[tuple[int, int] | None, Record]:
    found: dict[tuple[int, int] | None, Record] = {}
    for number in sorted({place[0] for place in places if place}):
        wanted = {place[1] for place in places if place and place[0] == number}
        part = parts[number]
        part.side.bring([part.name, *part.pictures])
        for row, record in enumerate(part.records()):
            if row in wanted:
                found[number, row] = record
            if row >= max(wanted):
                break
    return found


def _texts(record: Record | None) -> dict[str, str] | None:
    """Return a row's fields as texts."""
    if record is None:
        return None
    row = {name: value for name, value in record.row.items() if value is not None}
    texts = {
        name: f"{len(value)} bytes, sha256 {digest_bytes(value)[:12]}"
        if isinstance(value, bytes)
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
        for name, value in row.items()
    }
    return {**({} if record.id is None else {"id": record.id}), **texts}


def _shortened(row: dict[str, str] | None) -> dict[str, str] | None:
    return None if row is None else {name: shown(value) for name, value in row.items()}


def _checks(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[CheckDiff]:
    """Return the checks whose result or severity differs, in the order of the later side."""
    before, after = dict(_results(a)), dict(_results(b))
    return [
        CheckDiff(*key[:2], before.get(key), after.get(key))
        for key in dict.fromkeys([*after, *before])
        if before.get(key) != after.get(key)
    ]


def _results(verdict: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Yield each check (several may be of one kind on one column) with its result in words."""
    seen: Counter[tuple[str, str]] = Counter()
    for one in verdict.get("checks", ()):
        name = (str(one["expectation"]), str(one["column"]))
        seen[name] += 1
        result = f"{one['failed']} failed" if one["failed"] else "passed"
        yield (*name, seen[name]), f"{result} ({one.get('severity', 'fail')})"
    aside = Counter(str(place).split("/")[1] for place in verdict.get("quarantined", ()))
    for split in SPLITS:
        yield ("quarantine", split, 1), in_words(aside[split])
