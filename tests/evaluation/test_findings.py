"""What the report says, on tables whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from graft import tasks
from graft.evaluation.comparison import Comparison, compare
from graft.evaluation.findings import Confusion, limits, mistakes, percent, shortened, worth
from graft.evaluation.intervals import Drawn
from graft.tasks import Metric

TASK = tasks.get("text_classification")
STATE = {"labels": ["no", "yes"]}


def table(chances: list[float], reference: list[int]) -> dict[str, np.ndarray]:
    """Return a prediction table with these probabilities of ``yes``."""
    yes = np.array(chances)
    return {
        "row": np.array([f"data/test/a.jsonl:{row + 1}" for row in range(len(chances))], object),
        "reference": np.array(reference, np.int32),
        "prediction": (yes > 0.5).astype(np.int32),
        "probabilities": np.stack([1 - yes, yes], axis=1).astype(np.float32),
    }


def against(better: int, worse: int, rows: int = 60) -> Comparison:
    """Return the comparison of an adapter that alone is right on ``better`` rows, alone wrong on ``worse``."""
    truth = [1] * rows
    ours = [0.9] * (rows - worse) + [0.1] * worse
    theirs = [0.1] * better + [0.9] * (rows - better)
    return compare(TASK.metric("accuracy"), table(ours, truth), table(theirs, truth), Drawn())


@pytest.mark.parametrize(
    ("against_tfidf", "mood", "title"),
    [
        (against(20, 2), "yes", "The adapter is worth it."),
        (against(2, 20), "no", "The adapter is not worth it: TF-IDF + logistic regression does better."),
        (against(5, 4), "unclear", "It is not shown that the adapter is worth it."),
    ],
)
def test_worth_is_judged_against_the_strongest_other_system(against_tfidf: Comparison, mood: str, title: str) -> None:
    found = worth({"base": against(50, 0), "tfidf": against_tfidf})
    assert (found.mood, found.title) == (mood, title)
    assert "(TF-IDF + logistic regression)" in found.text


def test_mistakes_are_the_most_confident_wrong_rows_first() -> None:
    made = table([0.9, 0.2, 0.99, 0.6, 0.4], [1, 1, 0, 0, 0])
    answers = TASK.answers(made, STATE)
    expected = [STATE["labels"][number] for number in made["reference"]]
    found = mistakes(TASK.metric("accuracy"), made, expected, answers, [f"text {row}" for row in range(5)])
    assert found is not None
    assert found.total == 3
    assert [(one.place[-1], one.text, one.expected, one.got, one.score) for one in found.shown] == [
        ("3", "text 2", "no", "yes", "0.99"),
        ("2", "text 1", "yes", "no", "0.80"),
        ("4", "text 3", "no", "yes", "0.60"),
    ]


def test_mistakes_show_nothing_private() -> None:
    mail = "ann" + "@example.org"
    said = np.array([f"It is {mail}"], object)
    made = {"row": np.array(["data/test/a.jsonl:1"], object), "prediction": said}
    worst = Metric("low", lambda _: 0.5, per_row=lambda _: np.array([0.5]))
    text = f"{'x' * 390} Is it {mail}?"  # cut in the middle of the address
    found = mistakes(worst, made, [mail], [{"text": said[0]}], [text])
    assert found is not None
    [shown] = found.shown
    assert (shown.expected, shown.got) == ("<EMAIL_1>", "It is <EMAIL_1>")
    assert "@" not in shown.text
    assert "ann" not in shown.text


def test_metric_that_names_no_rows_has_no_mistakes() -> None:
    def mean(columns: Mapping[str, np.ndarray]) -> float:
        return float(columns["reference"].mean())

    assert mistakes(Metric("mean", mean), table([0.9], [1]), ["yes"], [{}], [""]) is None


def test_shortened_cuts_at_a_space() -> None:
    assert shortened("short", 10) == "short"
    assert shortened("one two three four", 12) == "one two thr…"  # no space in the last quarter
    assert shortened("one two three four", 16) == "one two three…"
    assert shortened("x" * 50, 10) == "x" * 9 + "…"


def test_percent_shows_three_digits() -> None:
    shown = [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (0.95, 0.999, 0.5, 1.0)]
    assert shown == ["95 %", "99.9 %", "50 %", "100 %"]


def test_limits_name_the_weakest_label_and_what_was_not_measured() -> None:
    metrics = {"headline": "accuracy", "adapter": {"accuracy": {"value": 0.75, "low": 0.5, "high": 0.9}}}
    manifest = {"max_length_tokens": 16, "splits": {"test": {"rows": 8, "truncated": 3, "also_in_train": 2}}}
    confusion = Confusion(["a", "b", "c"], np.array([[3, 1, 0], [3, 1, 0], [0, 0, 0]]))
    text = "\n".join(limits(metrics, manifest, confusion))
    assert "the true accuracy on rows like these may be anywhere from 0.500 to 0.900" in text
    assert "at most 16 tokens; 3 of 8 test rows were longer and were cut" in text
    whole = {**manifest, "splits": {"test": {"rows": 8, "truncated": 0}}, "leaked": {"the text of a row of train": 5}}
    said = "\n".join(limits(metrics, whole, None))
    assert "were cut" not in said
    assert "5 of 8 test rows have the text of a row of train: the figures flatter it." in said
    assert "2 test rows have the same tokens as a training row" in text
    assert "Weakest label: `b`, of whose 4 cases it finds 25\N{NO-BREAK SPACE}%" in text
    assert "no test row has them: `c`" in text


def test_graded_rows_are_listed_from_the_worst_score() -> None:
    made = {**table([0.9, 0.2, 0.6], [1, 1, 0]), "loss": np.array([0.1, 3.0, 0.5])}
    loss = Metric(
        "loss", lambda columns: float(columns["loss"].mean()), greater_is_better=False, per_row=lambda t: t["loss"]
    )
    found = mistakes(
        loss, made, ["a", "b", "c"], [{"text": "x"}, {"tags": ["O", "B-y"]}, {"label": ["z", "w"]}], [""] * 3
    )
    assert found is not None
    assert found.title == "The 3 rows with the worst loss, of 3"
    assert [(one.expected, one.got, one.score) for one in found.shown] == [
        ("b", "O B-y", "loss 3.000"),
        ("c", "z, w", "loss 0.500"),
        ("a", "x", "loss 0.100"),
    ]
    better = Metric("gain", lambda columns: 0.0, per_row=lambda t: t["loss"])
    again = mistakes(better, made, ["a", "b", "c"], [{}, {}, {}], ["", "", ""])
    assert again is not None
    assert [one.expected for one in again.shown] == ["a", "c", "b"]
