"""Explanations of tags, spans, written text and pictures: each number by a second route, and words that add up."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft import tasks
from graft.artifact import LoadedAdapter, raw_outputs
from graft.base.images import load_image_processor
from graft.data import DataConfig, Record
from graft.evaluation import EvaluationConfig
from graft.evaluation.probes import About, Material, Subject
from graft.evaluation.probes.attribution import attribution, picture_attribution
from graft.evaluation.probes.explanations import PROBE, ExplanationsConfig
from graft.evaluation.probes.questions import not_explained, spoken
from graft.pictures import AGAINST, FOR, marked
from graft.privacy.section import PrivacyConfig

STEPS, LIMIT = 256, 32
TEXT = "the cat with a small tail barks today"


def adapted(base: Path, name: str, state: Mapping[str, Any], **section: Any) -> LoadedAdapter:
    """Return a random adapter that says something, on a base with the task's head."""
    import peft
    from transformers import AutoTokenizer

    task, config = tasks.get(name), tasks.config_class(name).model_validate({"name": name, **section})
    processor: Any = load_image_processor(base) if task.processor == "image" else AutoTokenizer.from_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, _ = task.load_model(str(base), config, state)
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
        for each, weight in model.named_parameters():
            if "lora_B" in each:
                weight.data += 0.3 * torch.randn(weight.shape)
    return LoadedAdapter(
        model.eval(), processor, task, config, state, {"max_length_tokens": LIMIT}, None, "cpu"  # type: ignore[arg-type]
    )  # fmt: skip


def table_of(loaded: LoadedAdapter, *rows: dict[str, Any]) -> tuple[list[Record], dict[str, np.ndarray]]:
    records = [Record(row, f"data/test/a.jsonl:{number}") for number, row in enumerate(rows, start=1)]
    return records, Subject("adapter", loaded, {}, 8).predictions(records, "test")


def outputs(loaded: LoadedAdapter, row: dict[str, Any]) -> np.ndarray:
    encoded = loaded.task.encode(loaded.config, [row], loaded.processor, LIMIT)
    found = raw_outputs(
        loaded.model,
        loaded.task,
        loaded.config,
        loaded.state,
        encoded,
        pad_token_id=loaded.pad_token_id,
        batch_rows=1,
        device="cpu",
    )
    return np.asarray(found[0], dtype=np.float64)


def explained(loaded: LoadedAdapter, records: list[Record], table: Mapping[str, np.ndarray]) -> Any:
    assert not_explained(loaded) is None
    line = {name: column[0] for name, column in table.items()}
    found = attribution(loaded, records[0], PrivacyConfig(), STEPS, line)
    assert found is not None
    change = found.output - found.baseline
    assert abs(change) > 1e-3
    assert abs(found.gap) < 0.05 * abs(change) + 1e-3
    assert sum(weight for _, weight in found.pieces) == pytest.approx(change, abs=0.06 * abs(change) + 1e-3)
    return found


def test_tag_of_the_surest_wrong_word(tiny_base: Path) -> None:
    loaded = adapted(tiny_base, "token_classification", {"tags": ["O", "B-A", "B-B"], "scheme": "IOB2"})
    words = TEXT.split()
    records, table = table_of(loaded, {"tokens": words, "tags": ["O"] * len(words)})
    given, sure = table["prediction"][0].split(" "), table["confidence"][0]
    wrong = [at for at, tag in enumerate(given) if tag != "O"]
    word = max(wrong or range(len(words)), key=lambda at: sure[at])
    found = explained(loaded, records, table)
    assert found.output == pytest.approx(float(torch.logit(torch.tensor(sure[word]))), abs=1e-3)
    assert (found.answer, found.expected) == (f"{given[word]}: {words[word]}", f"O: {words[word]}")
    assert "".join(text for text, _ in found.pieces) == TEXT


def test_span_by_its_first_and_last_token(tiny_base: Path) -> None:
    loaded = adapted(tiny_base, "question_answering", {}, null_threshold=-100.0)
    row = {"question": "the cat", "context": TEXT, "answers": {"text": ["tail"], "answer_start": [21]}}
    records, table = table_of(loaded, row)
    begin, end = int(table["begin"][0]), int(table["end"][0])
    assert begin >= 0
    found = explained(loaded, records, table)
    scores = outputs(loaded, row)
    scores = scores[scores[:, 2] != -1]  # tokens that can answer
    start, stop = (torch.tensor(scores[:, side]).log_softmax(0) for side in (0, 1))
    first, last = int((scores[:, 2] == begin).argmax()), int((scores[:, 3] == end).argmax())
    assert found.output == pytest.approx(float(start[first] + stop[last]), abs=1e-4)
    assert "".join(text for text, _ in found.pieces) == f"the cat\n{TEXT}"


def test_no_answer_is_explained_too(tiny_base: Path) -> None:
    loaded = adapted(tiny_base, "question_answering", {}, null_threshold=100.0)
    row = {"question": "the cat", "context": TEXT, "answers": {"text": [], "answer_start": []}}
    records, table = table_of(loaded, row)
    assert table["begin"][0] == -1
    scores = outputs(loaded, row)
    scores = scores[scores[:, 2] != -1]
    start, stop = (torch.tensor(scores[:, side]).log_softmax(0) for side in (0, 1))
    null = int((scores[:, 2] == -2).argmax())
    assert explained(loaded, records, table).output == pytest.approx(float(start[null] + stop[null]), abs=1e-4)


@pytest.mark.parametrize(("base", "prompt"), [("tiny_t5", None), ("tiny_decoder", "the {source} cat")])
def test_written_answer_after_its_source(base: str, prompt: str | None, request: pytest.FixtureRequest) -> None:
    section = {"max_target_tokens": 8, **({"prompt": prompt} if prompt else {})}
    loaded = adapted(request.getfixturevalue(base), "translation", {}, **section)
    row = {"source": "small tail barks", "target": "rain"}
    records, table = table_of(loaded, row)
    table["prediction"][0] = "some rain today"
    found = explained(loaded, records, table)
    assert found.output == pytest.approx(-outputs(loaded, {**row, "target": "some rain today"})[0], abs=1e-3)
    shown = "".join(text for text, _ in found.pieces)
    assert shown == (prompt.format(source=row["source"]) if prompt else row["source"])
    table["prediction"][0] = ""
    line = {name: column[0] for name, column in table.items()}
    assert attribution(loaded, records[0], PrivacyConfig(), 8, line) is None


def test_last_answer_of_a_conversation(tiny_decoder: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    loaded = adapted(tiny_decoder, "chat", {}, template=template, generation={"max_new_tokens": 8})
    asked = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "barks"}]
    again = [{"role": "user", "content": "small tail"}, {"role": "assistant", "content": "rain"}]
    records, table = table_of(loaded, {"messages": [*asked, *again]})
    table["prediction"][0] = "some rain today"
    found = explained(loaded, records, table)
    whole = {"messages": [*asked, *again[:1], {"role": "assistant", "content": "some rain today"}]}
    [encoded] = loaded.task.encode(loaded.config, [whole], loaded.processor, LIMIT)
    ids = torch.tensor([encoded["input_ids"]])
    with torch.no_grad():
        steps = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
    first = encoded["prompt"]
    by_hand = sum(float(steps[at - 1, ids[0, at]]) for at in range(first, ids.shape[1]) if encoded["labels"][at] >= 0)
    assert found.output == pytest.approx(by_hand, abs=1e-3)
    assert "".join(text for text, _ in found.pieces).split() == ["the", "cat", "barks", "small", "tail"]


def test_second_half_of_a_plain_text(tiny_decoder: Path) -> None:
    loaded = adapted(tiny_decoder, "text_generation", {}, generation={"max_new_tokens": 8})
    records, table = table_of(loaded, {"text": TEXT})
    found = explained(loaded, records, table)
    [encoded] = loaded.task.encode(loaded.config, [{"text": TEXT}], loaded.processor, LIMIT)
    ids = torch.tensor([encoded["input_ids"]])
    with torch.no_grad():
        steps = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
    half = ids.shape[1] // 2
    assert found.output == pytest.approx(
        sum(float(steps[at - 1, ids[0, at]]) for at in range(half, ids.shape[1])), abs=1e-3
    )
    assert f"{''.join(text for text, _ in found.pieces)} {found.answer}" == TEXT


def test_label_of_an_encoder_decoder_is_read_by_two_embeddings(tiny_t5: Path) -> None:
    loaded = adapted(tiny_t5, "text_classification", {"labels": ["a", "b", "c"]})
    records, table = table_of(loaded, {"text": TEXT, "label": "a"})
    found = explained(loaded, records, table)
    logits = torch.tensor(outputs(loaded, {"text": TEXT, "label": "a"}))
    assert found.output == pytest.approx(float(torch.logit(logits.softmax(0).max())), abs=1e-3)
    assert "".join(text for text, _ in found.pieces) == TEXT


def test_picture_is_marked_where_it_speaks_for_the_label(
    tiny_vit: Path, picture_of: Callable[[str, int], bytes], tmp_path: Path
) -> None:
    labels = ["left", "right"]
    loaded = adapted(tiny_vit, "image_classification", {"labels": labels})
    content = picture_of("left", 1)
    records, table = table_of(loaded, {"image": content, "label": "left"}, {"image": content, "label": "right"})
    found = picture_attribution(loaded, records[0], STEPS)
    logits = torch.tensor(outputs(loaded, records[0].row))
    assert found.output == pytest.approx(float(torch.logit(logits.softmax(0).max())), abs=1e-3)
    assert abs(found.gap) < 0.05 * abs(found.output - found.baseline) + 1e-3
    subject = Subject("adapter", loaded, table, 8)
    config = EvaluationConfig(explanations=ExplanationsConfig(rows=2, steps=8))
    material = Material(records, DataConfig(), tmp_path)
    assert PROBE.left_out(config, subject, material) is None
    finding = PROBE.finding(
        config, {"adapter": PROBE.measure(config, subject, material)}, tmp_path, About(loaded.task, {}, PrivacyConfig())
    )
    assert [passage.picture[:22] for passage in finding.passages] == ["data:image/png;base64,"] * 2
    assert "Which parts drove the answer: integrated gradients of the log-odds of the label given" in finding.text


def test_marks_have_the_colour_of_their_side() -> None:
    from PIL import Image

    uri = marked(np.zeros((8, 8), np.uint8), np.array([[1.0, 0.0], [0.0, -1.0]]), side=8)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))), dtype=int)
    assert pixels.shape == (8, 8, 3)
    for at, colour in ((0, FOR), (7, AGAINST)):
        assert pixels[at, at] == pytest.approx(np.array(colour) * 200 / 255, abs=2)
    assert pixels[0, 7].tolist() == [0, 0, 0]


def test_tokens_of_any_tokenizer_are_found_in_their_text() -> None:
    class Bytes:
        """Three bytes of one character, then a letter: parts of a character are none yet."""

        def decode(self, ids: list[int], **_: Any) -> str:
            return bytes(ids).decode("utf-8", errors="replace")

    text, spans = spoken(Bytes(), [*"好".encode(), 97])
    assert text == "好a"
    assert spans == [(0, 1), (1, 1), (1, 1), (1, 2)]


def test_texts_that_were_written_show_nothing_private(tiny_t5: Path, tmp_path: Path) -> None:
    mail = "ann" + "@example.org"
    loaded = adapted(tiny_t5, "translation", {}, max_target_tokens=8)
    records, table = table_of(loaded, {"source": "the cat", "target": f"rain {mail}"})
    table["prediction"][0] = f"to {mail}"
    config = EvaluationConfig(explanations=ExplanationsConfig(rows=1, steps=8))
    found = PROBE.measure(config, Subject("adapter", loaded, table, 8), Material(records, DataConfig(), tmp_path))
    assert "example" not in found["answer"][0] + found["expected"][0]
    assert "EMAIL" in found["answer"][0]
