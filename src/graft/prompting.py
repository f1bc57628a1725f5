"""Conversations to tokens: chat templates, which tokens an answer is made of, and what is cut where a row is too long.

A template is the tokenizer's own, one given in the task's section, or ``PLAIN``, which puts paragraph after paragraph
and the end token after each answer. The text is rendered whole and tokenized whole, as inference servers do it; where
an answer starts and ends is known in characters: from the template's ``{% generation %}`` marks where it has them,
else from what the template adds to the conversation before the answer. A token belongs to an answer if one of its
characters does. The token that ends a turn is always learnt, else generation would never stop: it is the special token
that the template puts after the answer, and the end token where it puts none.

A conversation that is too long loses its oldest turns, then the front of its last prompt; an answer is cut, at its end,
only where it would leave the prompt less than a quarter of the length. A cut answer has no end to be learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from graft.conversations import ANSWERS, Messages, roles_of, without_oldest
from graft.errors import ConfigError, DataError
from graft.generation import GenerationConfig, generate_ids, room_of_prompt
from graft.likelihood import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n' }}{% endfor %}"
)
"""The template of a tokenizer without one: each message is a line, and the end token ends an answer."""
ANSWER = {"role": ANSWERS, "content": "a"}
"""Stands for an answer that is not there yet: where a prompt ends in tokens can depend on that something follows."""
PROMPT_SHARE = 4
"""A long answer leaves the prompt one part in this many of the length."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


# -- tokens of a tokenizer


def beginning_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer puts before a text by itself: its BOS, or nothing."""
    whole, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    places = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return list(whole[: next(places, 0)])


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the end token.

    Raises:
        ConfigError: the tokenizer has none, so that no model could learn to stop.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "base.source: its tokenizer has no end token (eos_token), so generation could not stop; save it with one"
        )
    return int(tokenizer.eos_token_id)


def continuation(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text of ``tokens`` after ``prompt``: some tokenizers drop a space at the start of what they decode."""
    before = str(tokenizer.decode(list(prompt), skip_special_tokens=True))
    whole = str(tokenizer.decode([*prompt, *tokens], skip_special_tokens=True))
    return whole.removeprefix(before)


def fitted(
    prompts: Sequence[Sequence[int]], model: nn.Module, settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Return the prompts, cut at the front where the base's positions would not hold prompt and answer.

    A special token at the start (BOS) stays. An adapter's own prompt takes its positions too.

    Raises:
        ConfigError: the answer alone has no room.
    """
    inner: Any = model
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    positions = getattr(inner.config, "max_position_embeddings", None)
    if positions is None:
        return [list(prompt) for prompt in prompts]
    own = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    room = room_of_prompt(settings, positions, own)
    special = frozenset(tokenizer.all_special_ids)
    return [[prompt[place] for place in _places(prompt, room, special)] for prompt in prompts]


def continued(
    prompts: Sequence[Sequence[int]],
    model: nn.Module,
    settings: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    pad_token_id: int,
    stops: int | list[int],
) -> list[str]:
    """Return the text that ``model`` gives after each prompt, up to one of ``stops``; prompts are :func:`fitted`."""
    read = fitted(prompts, model, settings, tokenizer)
    found = generate_ids(model, read, settings, pad_token_id=pad_token_id, eos_token_id=stops)
    return [continuation(tokenizer, prompt, tokens) for prompt, tokens in zip(read, found, strict=True)]


def prompt_text(probe: Mapping[str, np.ndarray], tokenizer: Any) -> str:
    """Return what is not supervised of the first row of the batch ``probe``, as text."""
    ids = probe["input_ids"][0][(probe["attention_mask"][0] == 1) & (probe["labels"][0] == IGNORED)]
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()


def _places(prompt: Sequence[int], room: int, special: frozenset[int]) -> list[int]:
    """Return the places of a prompt's last tokens, ``room`` of them; a special token at its start is one of them."""
    if len(prompt) <= room:
        return list(range(len(prompt)))
    first = [0] if room and prompt[0] in special else []
    return [*first, *range(len(prompt) - room + len(first), len(prompt))]


def valid_template(template: str | None) -> str | None:
    """Return ``template``, for a validator.

    Raises:
        ValueError: it is no Jinja template.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    if template is not None:
        try:
            _compile_jinja_template(template)
        except TemplateError as error:
            raise ValueError(f"not a chat template: {error}") from None
    return template


ChatTemplate = Annotated[str | None, AfterValidator(valid_template)]
"""The type of a template in a task's section."""


# -- conversations to tokens


@dataclass(frozen=True)
class Line:
    """The tokens of a conversation, T of them."""

    text: str
    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    """Where in ``text`` each token stands; (0, 0) for one that was put there."""
    supervised: Sequence[bool]
    """Which tokens are an answer's."""
    prompt: int
    """How many tokens stand before the last answer."""
    lost_prompt: int = 0
    """How many tokens of the last prompt are cut."""
    lost_target: int = 0
    """How many tokens of the last answer are cut."""

    @property
    def answer(self) -> int:
        """How many tokens the last answer has, with what ends it."""
        return len(self.ids) - self.prompt

    @property
    def labels(self) -> list[int]:
        """What is learnt: the token where it is supervised, else ``IGNORED``."""
        return [token if learnt else IGNORED for token, learnt in zip(self.ids, self.supervised, strict=True)]

    def only(self, kept: Sequence[int], prompt: int) -> Line:
        """Return the line with the tokens at ``kept``, of which ``prompt`` stand before the last answer."""
        return replace(
            self,
            ids=[self.ids[place] for place in kept],
            offsets=[self.offsets[place] for place in kept],
            supervised=[self.supervised[place] for place in kept],
            prompt=prompt,
        )

    def ends_in(self, tokens: frozenset[int]) -> bool:
        """Say whether the last supervised token is one of ``tokens``."""
        pairs = zip(reversed(self.ids), reversed(self.supervised), strict=True)
        return next((token in tokens for token, learnt in pairs if learnt), False)

    def answer_bytes(self, special: frozenset[int]) -> int:
        """Return the UTF-8 bytes of the text that supervised tokens stand for, without special ones."""
        total, start, end = 0, -1, -1
        for token, (first, last), learnt in zip(self.ids, self.offsets, self.supervised, strict=True):
            if learnt and token not in special and last > first:
                start, end = (first if start < 0 else start), last
            elif start >= 0:
                total, start = total + len(self.text[start:end].encode()), -1
        return total + (len(self.text[start:end].encode()) if start >= 0 else 0)


class ChatFormat:
    """Conversations to tokens with one tokenizer and one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        """Take the tokenizer's own template where ``template`` is None, ``PLAIN`` where it has none either."""
        self.tokenizer, self.end = tokenizer, end_of_text(tokenizer)
        own = tokenizer.chat_template
        self.template = template or (own.get("default") if isinstance(own, dict) else own) or PLAIN
        self.names = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        if self.template == PLAIN:
            self.names["bos_token"] = tokenizer.decode(beginning_of(tokenizer))

    def encode(self, conversations: Sequence[Messages], limit: int) -> list[tuple[Line, int]]:
        """Return the tokens of each conversation, at most ``limit``, and how many they were before anything was cut.

        Every answer is supervised. A conversation that ends with a question gives the tokens before its answer.

        Raises:
            DataError: the template refuses a conversation, or does not show where its answers are.
        """
        asking = [messages[-1]["role"] != ANSWERS for messages in conversations]
        given = [[*one, ANSWER] if open_ else one for one, open_ in zip(conversations, asking, strict=True)]
        found = []
        for messages, line, open_ in zip(given, self._lines(given), asking, strict=True):
            size, left = len(line.ids) - open_ * line.answer, messages
            while len(line.ids) > limit and (left := without_oldest(left)):
                line = self._lines([left])[0]
            line = cut(line, limit, line.answer, self.special)
            found.append((line.only(range(line.prompt), line.prompt) if open_ else line, size))
        return found

    def encode_together(self, alternatives: Sequence[Sequence[Messages]], limit: int) -> list[tuple[list[Line], int]]:
        """Return the tokens of conversations that differ in their last answer alone, at most ``limit`` each.

        The last answer is supervised, no other. What is cut of the prompt is cut for all alternatives, so that their
        answers can be compared. The number is that of all tokens before anything was cut.

        Raises:
            DataError: as :meth:`encode`.
        """
        flat = iter(self._lines([one for several in alternatives for one in several], last_only=True))
        found = []
        for several in alternatives:
            lines = [next(flat) for _ in several]
            size, left = sum(len(line.ids) for line in lines), several
            while max(len(line.ids) for line in lines) > limit and all(left := [*map(without_oldest, left)]):
                lines = self._lines(left, last_only=True)
            longest = max(line.answer for line in lines)
            found.append(([cut(line, limit, longest, self.special) for line in lines], size))
        return found

    @cached_property
    def special(self) -> frozenset[int]:
        """The tokens that stand for no text."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset({token for token, one in added if one.special} | set(self.tokenizer.all_special_ids))

    @cached_property
    def stops(self) -> list[int]:
        """The tokens at which an answer ends: the end token, and the one that the template puts after an answer."""
        line = self._lines([[{"role": "user", "content": "a"}, ANSWER]], last_only=True)[0]
        last = [token for token, learnt in zip(line.ids, line.supervised, strict=True) if learnt][-1]
        return sorted({self.end, last})

    def _lines(self, conversations: Sequence[Messages], *, last_only: bool = False) -> list[Line]:
        rendered = [self._rendered(messages, last_only) for messages in conversations]
        found = self.tokenizer(
            [text for text, _, _ in rendered],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [
            self._line(*one, ids, offsets)
            for one, ids, offsets in zip(rendered, found["input_ids"], found["offset_mapping"], strict=True)
        ]

    def _rendered(self, messages: Messages, last_only: bool) -> tuple[str, list[tuple[int, int]], int]:
        """Return a conversation's text, where its answers start and end, and where the last one begins."""
        text, marks = self._render(messages)
        numbers = [number for number, one in enumerate(messages) if one["role"] == ANSWERS][-1 if last_only else 0 :]
        spans = marks if _MARKED.search(self.template) else [self._span(messages, number, text) for number in numbers]
        spans = spans[-1:] if last_only else spans
        if not spans:
            raise DataError(
                f"task.template: the chat template shows no answer in a conversation of {roles_of(messages)}; give one "
                f"that does"
            )
        prompt, _ = self._render(messages[:-1], prompt=True)
        return text, spans, len(prompt) if text.startswith(prompt) else spans[-1][0]

    def _span(self, messages: Messages, number: int, text: str) -> tuple[int, int]:
        """Return where an answer stands, by what the template adds to the conversation before it."""
        before, _ = self._render(messages[:number], prompt=True)
        through, _ = self._render(messages[: number + 1])
        if not text.startswith(through) or not through.startswith(before):
            raise DataError(
                f"task.template: the chat template writes the start of a conversation of {roles_of(messages)} "
                f"otherwise once it goes on, so where its answers are cannot be seen; give task.template with "
                f"{{% generation %}} marks around the answers"
            )
        return len(before), len(through)

    def _render(self, messages: Messages, *, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """Return a conversation's text and where the template's marks are."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        marked = not prompt and _MARKED.search(self.template) is not None
        try:
            texts, marks = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self.template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=prompt,
                **self.names,
            )
        except TemplateError as error:
            raise DataError(
                f"task.template: the chat template refuses a conversation of {roles_of(messages)}: {error}"
            ) from None
        return texts[0], [(int(start), int(end)) for start, end in marks[0]] if marked else []

    def _line(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        prompt: int,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
    ) -> Line:
        learnt = [False] * len(ids)
        for place, (start, end) in enumerate(spans):
            inside = [n for n, (first, last) in enumerate(offsets) if last > start and first < end and last > first]
            if not inside:
                continue
            stop = self._end_of_turn(ids, inside)
            if stop is None and place == len(spans) - 1:  # nothing ends the turn: the end token does
                ids, offsets = [*ids[: inside[-1] + 1], self.end], [*offsets[: inside[-1] + 1], (0, 0)]
                learnt = [*learnt[: inside[-1] + 1], True]
            for n in range(inside[0], (inside[-1] if stop is None else stop) + 1):
                learnt[n] = True
        before = next((n for n, (_, last) in enumerate(offsets) if last > prompt), len(ids))
        return Line(text, ids, offsets, learnt, before)

    def _end_of_turn(self, ids: Sequence[int], inside: Sequence[int]) -> int | None:
        """Return the place of the special token that ends an answer at the places ``inside``; None without one.

        It may stand after the marked answer, and white space may stand after it, which is nobody's.
        """
        after = inside[-1] + 1
        for place in reversed(inside):
            if ids[place] in self.special:
                return place
            if self.tokenizer.decode([ids[place]]).strip():
                break
        return after if after < len(ids) and ids[after] in self.special else None


def cut(line: Line, limit: int, longest: int, special: frozenset[int]) -> Line:
    """Return a line of at most ``limit`` tokens: the prompt's front goes first, then the answer's end.

    The prompt is cut so that an answer of ``longest`` tokens finds room, as far as that leaves it its share; a token of
    ``special`` at its start (BOS) stays.
    """
    prompt = min(line.prompt, max(limit - longest, limit // PROMPT_SHARE))
    answer = min(line.answer, limit - prompt)
    front = _places(line.ids[: line.prompt], prompt, special)
    kept = line.only([*front, *range(line.prompt, line.prompt + answer)], prompt)
    return replace(kept, lost_prompt=line.prompt - prompt, lost_target=line.answer - answer)
