"""Splits: groups never straddle, labels keep their shares, time never runs backwards."""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from graft.splitting import assign, by_time

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 15).map(str)), min_size=1, max_size=60)
SHARES = st.tuples(st.integers(1, 90), st.integers(0, 90), st.integers(0, 90))


@given(rows=ROWS, shares=SHARES, seed=st.integers(0, 5))
def test_no_group_straddles_and_no_split_without_a_share_gets_rows(
    rows: list[tuple[str, str]], shares: tuple[int, int, int], seed: int
) -> None:
    places = assign([label for label, _ in rows], [group for _, group in rows], shares, seed)
    splits = defaultdict(set)
    for (_, group), place in zip(rows, places, strict=True):
        splits[group].add(place)
    assert all(len(found) == 1 for found in splits.values())
    assert set(places) <= {name for name, share in zip(("train", "validation", "test"), shares, strict=True) if share}


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 200), min_size=1), st.integers(0, 5))
def test_every_label_keeps_its_shares_within_one_row(sizes: dict[str, int], seed: int) -> None:
    labels = [label for label, size in sizes.items() for _ in range(size)]
    places = assign(labels, [str(number) for number in range(len(labels))], (80, 10, 10), seed)
    found = Counter(zip(labels, places, strict=True))
    for label, size in sizes.items():
        for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert abs(found[label, split] - size * share) <= 1


def test_split_depends_on_the_seed_and_not_on_the_order() -> None:
    names = [f"row {number}" for number in range(100)]
    first = dict(zip(names, assign(["x"] * 100, names, (80, 10, 10), 1), strict=True))
    again = dict(zip(names[::-1], assign(["x"] * 100, names[::-1], (80, 10, 10), 1), strict=True))
    other = dict(zip(names, assign(["x"] * 100, names, (80, 10, 10), 2), strict=True))
    assert first == again
    assert first != other


def test_rare_label_goes_to_train() -> None:
    labels = ["common"] * 50 + ["rare"]
    assert assign(labels, [str(number) for number in range(51)], (80, 10, 10), 0)[-1] == "train"


@given(times=st.lists(st.integers(0, 30), min_size=1, max_size=60), shares=SHARES)
def test_time_split_is_monotonic_and_keeps_one_time_together(times: list[int], shares: tuple[int, int, int]) -> None:
    rank = {"train": 0, "validation": 1, "test": 2}
    places = by_time([float(time) for time in times], shares)
    found = defaultdict(set)
    for time, place in zip(times, places, strict=True):
        found[time].add(rank[place])
    assert all(len(one) == 1 for one in found.values())
    order = [next(iter(found[time])) for time in sorted(found)]
    assert order == sorted(order)


def test_time_split_of_distinct_times_has_exact_shares() -> None:
    assert Counter(by_time([float(number) for number in range(20)], (80, 10, 10))) == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
