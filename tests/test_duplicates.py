"""Duplicates: what repeats what is found from sketches alone, and said as a comparison of all pairs would say it."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from graft.duplicates import (
    RECIPE,
    ROW_BYTES,
    DuplicatesConfig,
    Entry,
    Part,
    Sketch,
    compare,
    normal_forms,
    recall,
    sketch,
)
from graft.duplicates.candidates import FULL_NEIGHBOURS, FULL_TURNS, Census, _pairs_of_band, similarities
from graft.duplicates.corpus import Corpus
from graft.duplicates.sketching import BANDS, KEPT_PIECES, SLOTS
from graft.errors import IntegrityError
from graft.tfidf import UNSPACED

TEXT = "Please tell me how long a bank transfer to another country usually takes"


def part(split, *texts, name=None, labels=None):
    labels = labels or [None] * len(texts)
    return Part(name or split, split, sketch(map(Entry, range(1, len(texts) + 1), texts, labels)))


def lines(found, *kinds):
    """Return (kind, split:row, of_split:of_row) of each line."""
    rows = found.table.to_pylist()
    return [
        (row["kind"], f"{row['split']}:{row['row']}", f"{row['of_split']}:{row['of_row']}")
        for row in rows
        if not kinds or row["kind"] in kinds
    ]


def pieces(text):
    """The pieces of a text by the book: words, letters in threes within a padded word, characters and pairs of them."""

    def kind(sign):
        return "unspaced" if UNSPACED.match(sign) else "spaced"

    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.replace("\0", " ")).casefold())
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf" and sign not in "'\u2019\u2018`\u02bc")
    found = set()
    for said, word in itertools.groupby(text, lambda sign: unicodedata.category(sign)[0] in "LMNS"):
        for script, signs in itertools.groupby(word, kind) if said else ():
            run = "".join(signs)
            if script == "unspaced":
                found |= {("one", sign) for sign in run} | {("two", *pair) for pair in itertools.pairwise(run)}
            else:
                padded = f" {run} "
                found |= {("word", run)} | {("three", padded[at : at + 3]) for at in range(len(run))}
    return found or {("signs", "".join(text.split()))}


def jaccard(one, other):
    return len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other))


def made_texts(count, seed, words=16, vocabulary=300):
    """Texts of made words, of which every third is an edited copy of an earlier one."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlu"))
    lexicon = ["".join(rng.choice(letters, rng.integers(2, 8))) for _ in range(vocabulary)]
    texts: list[str] = []
    for number in range(count):
        if number % 3 == 2:
            copy = texts[rng.integers(len(texts))].split()
            for _ in range(rng.integers(0, 3)):
                copy[rng.integers(len(copy))] = lexicon[rng.integers(vocabulary)]
            texts.append(" ".join(copy))
        else:
            texts.append(" ".join(rng.choice(lexicon, rng.integers(6, words))))
    return texts


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        (TEXT, TEXT.upper()),
        (TEXT, f"{TEXT.replace(' ', ', ')}?!"),
        (TEXT, " ".join(reversed(TEXT.split()))),
        (TEXT, TEXT.replace("usually", "normally")),
        (TEXT, TEXT.replace("transfer", "tranfser")),
        (TEXT, TEXT.replace("tell", "te\u00adll").replace("bank", "ba\u200bnk")),
        ("I don't know what they're doing", "I don’t know what theyre doing"),
        ("ﬁne № ５ Straße", "fine no 5 STRASSE"),
        ("送餐很快，味道不错，下次还会再来", "味道不错，送餐很快，下次还会再来。"),
        ("送餐很快，味道不错，下次还会再来", "送餐很慢，味道不错，下次还会再来"),
        ("これは私の大切な犬です。", "これは私の大切な猫です"),
        ("การจัดส่งรวดเร็วและอาหารอร่อยมาก", "การจัดส่งรวดเร็วและอาหารอร่อย"),
        ("नमस्ते आप कैसे हैं दोस्त", "नमस्ते, आप कैसे हैं, दोस्त!"),
        ("user: hi there\nassistant: hello, how can I help", "user: hi there\nassistant: hello, how can I help?"),
        ("John lives in New York City", "john lives in new york city ."),
    ],
)
def test_an_edited_test_row_is_leakage(text, edited):
    found = compare([part("train", "something else entirely", text), part("test", "unrelated words", edited)])
    assert lines(found) == [("near", "test:2", "train:2")]
    assert found.clusters == 1


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("ﬁne № ５ ㎒", "fine NO 5 mhz"),
        ("Straße, ΣΑΣ", "STRASSE σας"),
        ("I don’t — know…", "i DONT know"),
        ("ｱﾊﾟｰﾄ", "アパート。"),
        ("cafe\u0301", "CAFÉ"),
        ("te\u00adll ba\u200bnk", "tell bank"),
    ],
)
def test_case_width_signs_and_composition_leave_the_normal_form(text, other):
    found = compare([part("train", text), part("test", other)])
    assert (found.texts, found.table.num_rows) == (1, 1)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (TEXT, "Please tell me where I can find the nearest cash machine in this city"),
        ("送餐很快，味道不错，下次还会再来", "等了两个小时，菜都凉了，差评"),
        ("!!!", "???"),
        ("", "a"),
        ("🙂", "🙁"),
        ("5 + 3", "5 - 8"),
    ],
)
def test_another_text_is_none(text, other):
    assert lines(compare([part("train", text), part("test", other)])) == []


def test_texts_without_words_repeat_each_other_by_their_signs():
    found = compare([part("train", "!!!", " ", "... ", ""), part("test", "! ! !", "...", "")])
    assert lines(found) == [
        ("near", "train:4", "train:2"),
        ("near", "test:1", "train:1"),
        ("near", "test:2", "train:3"),
        ("exact", "test:3", "train:4"),
    ]


def test_each_row_points_to_the_first_one_that_it_repeats_in_each_split():
    found = compare(
        [
            part("train", "one fine day", "One fine day!", "one fine day"),
            part("validation", "one fine day", "ONE fine day"),
            part("test", "one fine day"),
        ]
    )
    assert lines(found) == [
        ("near", "train:2", "train:1"),
        ("exact", "train:3", "train:1"),
        ("exact", "validation:1", "train:1"),
        ("near", "validation:2", "train:1"),
        ("near", "validation:2", "validation:1"),
        ("exact", "test:1", "train:1"),
        ("exact", "test:1", "validation:1"),
    ]
    assert found.table["cluster"].to_pylist() == [0] * 7
    assert found.table["similarity"].to_pylist() == [1.0] * 7
    assert (found.rows, found.texts, found.clusters) == (6, 1, 1)


def test_the_most_similar_earlier_row_is_named_and_the_first_of_a_cluster_is_not():
    far, near = TEXT.replace("usually", "normally"), TEXT.replace("usually", "usualy")
    found = compare([part("train", far, near, "nothing like it"), part("test", TEXT)])
    assert jaccard(far, near) >= 0.7
    assert lines(found) == [("near", "train:2", "train:1"), ("near", "test:1", "train:2")]
    assert found.table["similarity"].to_pylist() == pytest.approx([jaccard(far, near), jaccard(TEXT, near)])


def test_copies_of_a_row_do_not_hide_its_near_one():
    edited = TEXT.replace("usually", "normally")
    found = compare([part("train", TEXT, TEXT), part("test", edited, edited)])
    assert lines(found) == [
        ("exact", "train:2", "train:1"),
        ("near", "test:1", "train:1"),
        ("near", "test:2", "train:1"),
        ("exact", "test:2", "test:1"),
    ]


@pytest.mark.parametrize(("text", "kind"), [(TEXT, "exact"), (TEXT.upper(), "near")])
def test_where_a_split_has_the_text_no_near_one_of_it_is_named(text, kind):
    found = compare([part("train", TEXT.replace("usually", "normally"), TEXT), part("test", text)])
    assert lines(found) == [("near", "train:2", "train:1"), (kind, "test:1", "train:2")]


def test_a_row_repeats_an_earlier_part_of_its_split_and_parts_keep_their_names_and_row_numbers():
    parts = [
        Part("b.jsonl", "train", sketch([Entry(7, "something else"), Entry(90, TEXT)])),
        Part("t.jsonl", "test", sketch([Entry(3, TEXT)])),
        Part("a.jsonl", "train", sketch([Entry(4_000_000_000, TEXT)])),
    ]
    rows = compare(parts).table.select(["part", "row", "of_part", "of_row"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("a.jsonl", 4_000_000_000, "b.jsonl", 90),
        ("t.jsonl", 3, "b.jsonl", 90),
    ]


def test_equal_texts_with_another_label_contradict_the_first_labelled_one():
    found = compare(
        [
            part("train", "so it is", "So it is!", "so it is", "so it is", labels=[None, "a", "b", "a"]),
            part("test", "so it is", "so it was once upon a time", labels=["c", "d"]),
        ]
    )
    assert lines(found, "contradiction") == [
        ("contradiction", "train:3", "train:2"),
        ("contradiction", "test:1", "train:2"),
    ]


def test_chains_are_one_cluster_and_clusters_are_numbered_by_their_first_rows():
    words = TEXT.split()
    chain = [" ".join(["x1", "x2", "x3", "x4"][:at] + words[at:]) for at in range(5)]
    assert jaccard(chain[0], chain[4]) < 0.7 < min(jaccard(one, other) for one, other in itertools.pairwise(chain))
    found = compare([part("train", "alone here", *chain[::2], "The end.", *chain[1::2], "the end")])
    assert found.clusters == 2
    cluster = dict(zip(found.table["row"].to_pylist(), found.table["cluster"].to_pylist(), strict=True))
    # Rows 2 to 4 are links 0, 2, 4 (far from each other or not), 6 and 7 are 1 and 3, which join them.
    assert {row: at for row, at in cluster.items() if row > 4} == {6: 0, 7: 0, 8: 1}
    assert set(cluster.values()) == {0, 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=20) | st.text("ab 好的'-é\u0301ｱﾊﾟ", max_size=20), min_size=1, max_size=8))
def test_similarities_are_those_of_sets_of_pieces(texts):
    corpus = Corpus.of([part("train", *texts)])
    firsts = [int(corpus.first[group, 0]) for group in range(corpus.groups)]
    pairs = list(itertools.combinations(range(len(firsts)), 2))
    if pairs:
        found = similarities(corpus, *np.array(pairs).T)
        expected = [jaccard(texts[firsts[a]], texts[firsts[b]]) for a, b in pairs]
        assert found.tolist() == pytest.approx(expected)


def test_long_texts_of_different_length_are_estimated_without_bias():
    """Of the shorter one the kept pieces reach further than of the longer one, where nothing is known of that."""
    rng = np.random.default_rng(6)
    words, errors = [f"w{number}" for number in range(20_000)], []
    for _ in range(12):
        one = rng.choice(words, 300, replace=False)
        a, b = " ".join(one), " ".join(one[:200])
        found = similarities(Corpus.of([part("train", a, b)]), np.array([0]), np.array([1]))
        errors.append(found[0] - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.03  # three standard errors; without the limit it is 0.1 too low


def test_long_texts_are_estimated_within_the_stated_error():
    rng = np.random.default_rng(5)
    words = [f"w{number}" for number in range(20_000)]
    errors = []
    for share in np.linspace(0.5, 0.99, 20):
        one = rng.choice(words, 300, replace=False)
        other = np.where(rng.random(300) < share, one, rng.choice(words, 300))
        a, b = " ".join(one), " ".join(other)
        corpus = Corpus.of([part("train", a, b)])
        assert corpus.size.tolist() == [len(pieces(a)), len(pieces(b))]
        errors.append(similarities(corpus, np.array([0]), np.array([1]))[0] - jaccard(a, b))
    assert np.std(errors) < 0.5 / math.sqrt(KEPT_PIECES)
    assert np.abs(errors).max() < 4 * 0.5 / math.sqrt(KEPT_PIECES)


@pytest.fixture(scope="module")
def all_pairs():
    """Texts in splits, and the similarity of every pair that has 0.5 or more."""
    texts = made_texts(400, 3)
    places = [("train", row) for row in range(1, 301)] + [("test", row) for row in range(1, 101)]
    sets = [pieces(text) for text in texts]
    similar = {}
    for at, other in itertools.combinations(range(len(texts)), 2):
        common = len(sets[at] & sets[other])
        if (similarity := common / (len(sets[at]) + len(sets[other]) - common)) >= 0.5:
            similar[at, other] = similarity
    return texts, places, similar


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8])
def test_what_a_comparison_of_all_pairs_finds_is_found(threshold, all_pairs):
    texts, places, similar = all_pairs
    found = compare([part("train", *texts[:300]), part("test", *texts[300:])], DuplicatesConfig(threshold=threshold))
    expected = {}
    for (at, other), similarity in similar.items():
        if similarity >= threshold:
            key = (*places[other], places[at][0])
            expected[key] = max(expected.get(key, 0), similarity)
    rows = found.table.to_pylist()
    got = {(row["split"], row["row"], row["of_split"]): row["similarity"] for row in rows}
    assert len(expected) > 40
    assert got.keys() <= expected.keys()
    missed = sum(1 - recall(value) for value in expected.values())
    assert len(expected.keys() - got.keys()) <= missed + 3 * math.sqrt(missed)
    assert sum(abs(got[key] - expected[key]) > 1e-6 for key in got) <= 3  # the nearest was missed, another one named


def test_recall_in_bands_is_what_the_formula_says():
    """Also what the bits say of the similarity: rensa's slots are not quite independent, and still do."""
    rng = np.random.default_rng(1)
    words = [f"word{number}" for number in range(5000)]
    pairs = []
    for _ in range(700):
        one = rng.choice(words, 12, replace=False)
        other = one.copy()
        other[: rng.integers(1, 8)] = rng.choice(words, 1)
        pairs.append((" ".join(one), " ".join(other)))
    made = sketch(Entry(at, text) for at, text in enumerate(itertools.chain(*pairs)))
    assert len(made.normal) == 1400
    similarity = np.array([jaccard(*pair) for pair in pairs])
    hits = (made.bands[:, ::2] == made.bands[:, 1::2]).any(axis=0)
    for low, high in ((0.4, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 1)):
        chosen = (similarity >= low) & (similarity < high)
        expected = [1 - (1 - value**6) ** 32 for value in similarity[chosen]]
        assert [recall(value) for value in similarity[chosen]] == pytest.approx(expected)
        assert chosen.sum() > 60
        assert hits[chosen].mean() == pytest.approx(np.mean(expected), abs=0.06)
    differing = np.bitwise_count(made.bits[:, ::2] ^ made.bits[:, 1::2]).sum(axis=0) / SLOTS
    errors = differing - (1 - similarity) / 2
    assert abs(errors.mean()) < 0.005
    assert errors.std() < 0.5 / math.sqrt(SLOTS)


def test_pieces_agree_with_an_independent_measure_of_edits():
    texts = made_texts(300, 8)
    corpus = Corpus.of([part("train", *texts)])
    rows = corpus.first[:, 0]
    pairs = np.array(list(itertools.combinations(range(len(rows)), 2)))
    found = similarities(corpus, *pairs.T)
    edits = [Indel.normalized_similarity(texts[rows[a]], texts[rows[b]]) for a, b in pairs[found >= 0.7]]
    assert np.mean(np.array(edits) >= 0.75) > 0.95


def test_boilerplate_costs_little_and_what_is_left_out_is_counted():
    """2,000 texts of one template: 2 million pairs."""
    template = "Dear customer, thank you for your order; your parcel with number {} has left our warehouse today"
    texts = [template.format(number) for number in range(10_000, 12_000)]
    config = DuplicatesConfig(bucket_texts=8)
    found = compare([part("train", *texts[:1500]), part("test", *texts[1500:])], config)
    assert found.full_buckets > 0
    assert found.pairs_left_out > 1_000_000
    assert found.checked < 2000 * ((FULL_NEIGHBOURS + 2) * FULL_TURNS + 8 * BANDS / 2)
    assert found.clusters == 1
    rows = found.table.to_pylist()
    assert {row["row"] for row in rows if row["split"] == "test" and row["of_split"] == "train"} == set(range(1, 501))
    assert {row["row"] for row in rows if row["split"] == row["of_split"] == "train"} == set(range(2, 1501))
    few = compare([part("train", *texts[:30])])
    assert (few.full_buckets, few.pairs_left_out, few.checked) == (0, 0, 30 * 29 // 2)


def test_pairs_left_out_are_those_that_no_rule_takes():
    texts = [f"the very same long sentence about nothing at all but {at}" for at in range(40)]
    corpus = Corpus.of([part("train", *texts[:25]), part("test", *texts[25:])])
    turns = np.zeros(40, np.uint8)
    pairs = set(itertools.combinations(range(40), 2))
    full = {(a, b) for a, b in pairs if b - a <= FULL_NEIGHBOURS or a in (0, 25) or b == 25}
    # All in one bucket; twice the first 30 and the last 10; and then everybody had his turns.
    two = (np.arange(40) >= 30).astype(np.uint32)
    half = {(a, b) for a, b in full if b < 30} | {(a, b) for a, b in pairs if a >= 30}
    assert FULL_TURNS == 4
    for band, expected, buckets in (
        (np.zeros(40, np.uint32), full, 1),
        (two, half, 1),
        (two, half, 1),
        (np.zeros(40, np.uint32), full, 1),
        (two, {(a, b) for a, b in pairs if a >= 30}, 1),
        (
            np.zeros(40, np.uint32),
            {(a, b) for a, b in full if a >= 30} | {(a, b) for a in (0, 25) for b in range(30, 40)},
            1,
        ),
    ):
        census = Census()
        found = [
            pair
            for low, high in _pairs_of_band(corpus, band, 10, turns, census)
            for pair in zip(low.tolist(), high.tolist(), strict=True)
        ]
        assert set(found) == expected
        assert len(found) == len(expected)
        possible = sum(count * (count - 1) // 2 for count in np.bincount(band))
        assert (census.full_buckets, census.pairs_left_out) == (buckets, possible - len(expected))


def test_a_saved_sketch_is_the_same_and_equal_rows_give_equal_bytes(tmp_path):
    texts = [*made_texts(2500, 4), "送餐很快", "", "x" * 3000]
    entries = [Entry(number, text, str(number % 3)) for number, text in enumerate(texts)]
    made = sketch(entries)
    for name in ("a", "b"):
        sketch(iter(entries)).save(tmp_path / name / "sketch")
    assert (tmp_path / "a" / "sketch").read_bytes() == (tmp_path / "b" / "sketch").read_bytes()
    found = Sketch.load(tmp_path / "a" / "sketch")
    assert all(isinstance(array, np.memmap) for array in vars(found).values())
    for name, array in vars(made).items():
        assert np.array_equal(array, vars(found)[name])
        assert array.dtype == vars(found)[name].dtype
    assert found.rows == len(texts)
    assert (tmp_path / "a" / "sketch").stat().st_size <= 2000 + ROW_BYTES * len(texts)
    one, other = (compare([Part("p", "train", each)]).table for each in (made, found))
    assert one.equals(other)
    assert one.num_rows > 200


def test_row_bytes_bound_the_longest_texts(tmp_path):
    rng = np.random.default_rng(0)
    sketch(Entry(at, " ".join(map(str, rng.integers(0, 10**9, 400)))) for at in range(50)).save(tmp_path / "sketch")
    size = (tmp_path / "sketch").stat().st_size
    assert 50 * ROW_BYTES <= size <= 50 * ROW_BYTES + 2000


def test_batches_make_no_difference(monkeypatch):
    texts = [*made_texts(200, 6), "好吃，很快", "", "好吃 很快", *made_texts(30, 6)]
    whole = sketch(map(Entry, range(len(texts)), texts))
    monkeypatch.setattr("graft.duplicates.sketching.BATCH_ROWS", 7)
    for name, array in vars(sketch(map(Entry, range(len(texts)), texts))).items():
        assert np.array_equal(array, vars(whole)[name])


def test_slices_make_no_difference(monkeypatch):
    parts = [part(split, *made_texts(300, seed)) for seed, split in enumerate(("train", "train", "test"))]
    parts[1] = part("train", *made_texts(300, 0), name="again")
    whole = compare(parts)
    for name in ("candidates.CANDIDATES", "candidates.CACHED_PIECES", "comparing.CHECKED_PIECES"):
        monkeypatch.setattr(f"graft.duplicates.{name}", 500)
    assert compare(parts).table.equals(whole.table)


def test_a_process_of_its_own_gives_the_same_bytes(tmp_path):
    program = (
        "import sys; from pathlib import Path; from graft.duplicates import Entry, sketch;"
        "sketch([Entry(0, 'Some text, é 好', 'a'), Entry(1, 'another')]).save(Path(sys.argv[1]))"
    )
    source = str(Path(__file__).parent.parent / "src")
    for seed in ("1", "2"):
        environment = {"PYTHONPATH": source, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed, "PATH": ""}
        environment |= {"RENSA_FORCE_KERNEL": "scalar"} if seed == "2" else {}  # as on a processor without AVX
        subprocess.run([sys.executable, "-c", program, str(tmp_path / seed)], env=environment, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_signatures_of_a_text_stay_as_they_are():
    """Sketches are kept: a library that hashes otherwise needs another recipe."""
    from rensa import RMinHash

    assert RECIPE["signatures"] == RMinHash.ALGORITHM_VERSION
    made = sketch([Entry(0, "a text")])
    assert made.bands[:3, 0].tolist() == [49814045, 606285921, 3974702727]
    assert made.size.tolist() == [len(pieces("a text"))]
    assert made.text.tolist() == [int.from_bytes(hashlib.blake2b(b"a text", digest_size=8).digest(), "little")]
    assert made.normal.tolist() == [
        int.from_bytes(hashlib.blake2b("atext".encode("utf-32-le"), digest_size=8).digest(), "little")
    ]


@pytest.mark.parametrize("damage", ["cut", "text", "recipe", "other"])
def test_what_is_no_sketch_is_refused(tmp_path, damage):
    from safetensors.numpy import save_file

    path = tmp_path / "sketch"
    sketch([Entry(0, TEXT)]).save(path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-10])
    elif damage == "text":
        path.write_text("no sketch")
    elif damage == "recipe":
        path.write_bytes(content.replace(b'\\"kept\\": 256', b'\\"kept\\": 128'))
    else:
        save_file({"number": np.zeros(3)}, path)
    with pytest.raises(IntegrityError, match=r"sketch.*remove it, and it is made again"):
        Sketch.load(path)


def test_nothing_is_compared_where_nothing_is():
    assert compare([]).table.num_rows == 0
    found = compare([part("train"), part("test", "a")])
    assert (found.rows, found.texts, found.table.num_rows, found.clusters) == (1, 1, 0, 0)


def test_strings_that_are_no_text_are_sketched():
    found = compare([part("train", "a\0b c", "\ud800 x", "\ud800"), part("test", "a b c", "\ud800\ud800")])
    assert lines(found) == [("near", "test:1", "train:1")]


def test_a_threshold_that_bands_cannot_serve_is_refused():
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.6"):
        DuplicatesConfig(threshold=0.5)
    assert recall(0.6) > 0.75
    assert recall(0.7) > 0.98


def test_rows_about_different_things_are_never_alike_and_what_they_are_about_adds_no_likeness() -> None:
    context, other = "a long context that many questions share by design", "another context"
    asked = ["who wrote the first book of the series", "when did the last of the ships leave port"]
    about = [context, context, context.upper(), other, context]
    texts = [*asked, "Who wrote the first book of the series?", asked[0], "who wrote the first book of this series"]
    table = compare(
        [Part("a", "train", sketch(Entry(*one) for one in zip(range(5), texts, [None] * 5, about, strict=True)))]
    ).table
    found = {(one["row"], one["of_row"], one["similarity"] == 1) for one in table.to_pylist()}
    assert found == {(2, 0, True), (4, 0, False)}
    plain = compare(
        [Part("a", "train", sketch(Entry(*one) for one in zip(range(5), texts, [None] * 5, strict=True)))]
    ).table
    assert {one["row"] for one in plain.to_pylist()} == {2, 3, 4}
    entries = [Entry(*one) for one in zip(range(5), texts, [None] * 5, about, strict=True)]
    assert normal_forms(entries).tolist() == [int(sketch([one]).normal[0]) for one in entries]
