"""Clean rows of each task, made up from a seed: what corruptions are tried on where no data set is at hand.

Sentences are plain but real ones, in English with German and Chinese between them, so that detectors of language,
encoding and repetition have something to look at; no two rows of a data set are alike, and labels follow from the text.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]
SIZES = {"train": 60, "validation": 20, "test": 20}

WHO = ("The courier", "My neighbour", "A young chef", "Our teacher", "The old sailor", "Zoë Müller", "The night nurse")
WHERE = ("in Zürich", "near the harbour", "at the café", "behind the station", "in São Paulo", "on the hill")
WHEN = ("on Monday", "late in May", "before sunrise", "after the storm", "last winter", "every evening")
DID = {
    "cooking": ("baked a loaf of rye bread", "burnt the tomato soup again", "salted the fish far too much"),
    "travel": ("missed the last train home", "booked a room with a view", "lost a suitcase full of maps"),
    "weather": ("watched the heavy rain for hours", "froze in the icy wind", "was surprised by the first snow"),
}
CAPITALS = ("Zürich", "São Paulo", "Kraków", "Malmö", "Bogotá", "Besançon")


_THINGS = """
    acorns anchors baskets bells blankets bottles bricks brooms buckets candles carpets chains cherries clocks coins
    combs crates cushions daggers drums engines fences flutes gloves hammers hinges jackets kettles knives ladders
    lanterns
    lemons magnets marbles mirrors needles oars paddles pebbles pencils pillows ploughs puppets ribbons ropes saddles
    scissors shovels sleighs spoons stamps statues tables thimbles tickets towels trumpets umbrellas violins wagons
    whistles windows zippers
"""
_PAIRS = """
    houses/Häuser horses/Pferde books/Bücher ships/Schiffe apples/Äpfel trees/Bäume chairs/Stühle windows/Fenster
    clouds/Wolken bridges/Brücken birds/Vögel stones/Steine letters/Briefe shoes/Schuhe keys/Schlüssel rivers/Flüsse
    plates/Teller gardens/Gärten wheels/Räder doors/Türen stars/Sterne dogs/Hunde cats/Katzen pictures/Bilder
    mountains/Berge songs/Lieder streets/Straßen towers/Türme forks/Gabeln coats/Mäntel flowers/Blumen boxes/Kisten
    lamps/Lampen nets/Netze pumps/Pumpen rings/Ringe balls/Bälle maps/Karten pots/Töpfe boats/Boote masks/Masken
    cups/Tassen nails/Nägel seeds/Samen wolves/Wölfe crowns/Kronen drums/Trommeln ladders/Leitern candles/Kerzen
    bells/Glocken foxes/Füchse knives/Messer spoons/Löffel sacks/Säcke ropes/Seile coins/Münzen
"""
THINGS = _THINGS.split()
PAIRS = dict(pair.split("/") for pair in _PAIRS.split())
ALIKE = 0.5
"""The largest share of words that two rows may have in common."""


def sentence(source: random.Random, topic: str) -> str:
    """Return a sentence about a topic."""
    what, where, when = source.choice(DID[topic]), source.choice(WHERE), source.choice(WHEN)
    first, second, third, fourth = source.sample(THINGS, 4)
    late = f"{first} for {second}, {third} for {fourth}"
    return f"{source.choice(WHO)} {what} {where} {when}, {source.randint(2, 99)} days ago, changing {late}."


def _named(source: random.Random) -> str:
    return ", ".join(source.sample(THINGS, 4))


def _topic(source: random.Random) -> str:
    return source.choice(sorted(DID))


def classified(source: random.Random) -> Row:
    topic = _topic(source)
    return {"text": sentence(source, topic), "label": topic}


def labelled(source: random.Random) -> Row:
    topics = sorted(source.sample(sorted(DID), source.randint(1, 2)))
    return {"text": " ".join(sentence(source, topic) for topic in topics), "labels": topics}


def scored(source: random.Random) -> Row:
    first, second = _topic(source), _topic(source)
    score = 4.0 if first == second else 1.0
    return {"text": sentence(source, first), "text_pair": sentence(source, second), "target": score}


def tagged(source: random.Random) -> Row:
    city, person = source.choice(CAPITALS).split(), source.choice(("Ana Lima", "Jürgen Groß", "Li Wei")).split()
    words = [
        *person,
        "moved",
        "from",
        *city,
        "to",
        "the",
        "coast",
        *source.choice(WHEN).split(),
        *source.sample(THINGS, 8),
        str(source.randint(2, 999)),
    ]
    tags = ["B-person", *["I-person"] * (len(person) - 1), "O", "O", "B-city", *["I-city"] * (len(city) - 1)]
    return {"tokens": words, "tags": tags + ["O"] * (len(words) - len(tags))}


def answered(source: random.Random) -> Row:
    context = " ".join(sentence(source, _topic(source)) for _ in range(3))
    who = next(name for name in WHO if name in context)
    start = context.index(who)
    first, second, third, fourth = source.sample(THINGS, 4)
    question = f"Who is named before any {first}, {second}, {third} or {fourth}?"
    return {"question": question, "context": context, "answers": {"text": [who], "answer_start": [start]}}


def talked(source: random.Random) -> Row:
    messages = [{"role": "system", "content": "Answer in one sentence."}]
    for _ in range(2):
        messages.append({"role": "user", "content": f"What happened {source.choice(WHERE)}, {_named(source)}?"})
        messages.append({"role": "assistant", "content": sentence(source, _topic(source))})
    return {"messages": messages}


def preferred(source: random.Random) -> Row:
    topic = _topic(source)
    question = {
        "role": "user",
        "content": f"Tell me about {topic}, in {source.randint(5, 500)} words: {_named(source)}.",
    }
    openings = ("I would rather not speak of", "Please ask somebody else about", "Nobody here knows anything of")
    rejected = f"{source.choice(openings)} {_named(source)}."
    return {"messages": [question], "chosen": sentence(source, topic), "rejected": rejected}


def translated(source: random.Random) -> Row:
    number, chosen = source.randint(2, 9999), source.sample(sorted(PAIRS), 9)
    gone, left = chosen[:5], chosen[5:]
    weg, geblieben = ([PAIRS[name] for name in names] for names in (gone, left))
    return {
        "source": f"Sold: {number} {', '.join(gone)}. Kept were {', '.join(left[:-1])} and {left[-1]}.",
        "target": f"Verkauft: {number} {', '.join(weg)}. Es blieben {', '.join(geblieben[:-1])} und {geblieben[-1]}.",
    }


def pictured(source: random.Random) -> Row:
    return {"image": f"files/{source.getrandbits(64):016x}.png", "label": source.choice(("bright", "dark"))}


MAKERS: dict[str, Callable[[random.Random], Row]] = {
    "text_classification": classified,
    "multi_label_classification": labelled,
    "regression": scored,
    "token_classification": tagged,
    "question_answering": answered,
    "chat": talked,
    "preference": preferred,
    "translation": translated,
    "image_classification": pictured,
}


def clean_rows(task: str, seed: int) -> Splits:
    """Return rows of a task by split, each with an id and no two alike."""
    source, seen, splits = random.Random(f"{task} {seed}"), list[set[str]](), Splits()
    for split, count in SIZES.items():
        rows = splits[split] = list[Row]()
        while len(rows) < count:
            row = MAKERS[task](source)
            values = [value for name, value in row.items() if name not in ("label", "tags")]
            words = set(re.findall(r"\w+", str(values).lower()))
            if all(len(words & other) <= ALIKE * len(words | other) for other in seen):
                seen.append(words)
                rows.append({"id": f"{split}-{len(rows)}", **row})
    return splits


def picture(row: Row) -> bytes:
    """Return the PNG of a row with a picture."""
    from PIL import Image

    source = random.Random(row["image"])
    low, high = (150, 255) if row["label"] == "bright" else (0, 100)
    file = io.BytesIO()
    Image.frombytes("L", (16, 12), bytes(source.randint(low, high) for _ in range(16 * 12))).save(file, format="PNG")
    return file.getvalue()
