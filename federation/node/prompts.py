"""Prompts as token ids: a group's rows, each of exactly the same length, and the messages of plain chats.

A row of a group is

    head      system text and question: public, the same in every row, and whole blocks of the engine's cache, so that
              its keys and values are computed once for all rows
    record    the patient's text, cut or filled to exactly ``record_tokens`` tokens
    tail      end of the turn and START, a public beginning of the answer

so that nothing about a record, its length included, changes the shape of the batch: another row's result must not move
by one bit when a record changes. The public row has a public sentence in the record's place.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdrouter.errors import InvalidParameter
from federation.engine.serve import BLOCK_TOKENS

RECORD_TOKENS = 64
MAX_QUESTION_TOKENS = 160
START = "In our records,"
NO_RECORD = "No patient record is available."
COHORT_SYSTEM = "Answer in a few words."
CHART_SYSTEM = (
    "You are a clinical assistant. Answer the question from the patient record only. "
    "If the record does not say, answer that the record does not say."
)
_RECORD_SLOT = "\x00record\x00"  # replaced before the model sees it; never part of a question (control characters go)


@dataclass(frozen=True, slots=True)
class GroupPrompts:
    """Token ids of a group's rows, all of one length; the first ``shared`` ids are the same in every row."""

    public: list[int]
    private: list[list[int]]
    shared: int
    start: str

    @property
    def length(self) -> int:
        """Tokens in every row."""
        return len(self.public)


# Forms of a question that can be turned into the beginning of its answer: (pattern, beginning).
_OPENINGS: tuple[tuple[str, str], ...] = (
    (r"what happened (after|when|while|during|to) (.+)", r"\1 \2,"),
    (r"(?:what|which)(?: [\w -]+?)? (?:do|does|did) (.+?) cause", r"\1 caused"),
    (r"(?:what|which) (is|are|was|were) (.+)", r"\2 \1"),
    (r"how (is|are|was|were) (.+) (\w+ed)", r"\2 \1 \3 by"),
    (r"(?:what|which) (?!do |does |did |is |are |was |were )([\w -]+?) (is|are|was|were) (.+)", r"the \1 \3 \2"),
)


def opening_of(question: str) -> str:
    """A beginning of the answer, made from the question alone, e.g. "What is the dose of X?": "..., the dose of X is".

    Every token costs privacy and the first ones decide where an answer goes, so they are better written down in
    advance. A function of public text only; a question of another form gets :data:`START`.
    """
    asked = " ".join(clean(question).split()).rstrip("?!. ")
    if len(asked) <= 120 and "?" not in asked:
        for pattern, beginning in _OPENINGS:
            if found := re.fullmatch(pattern, asked, flags=re.IGNORECASE):
                return f"{START} {found.expand(beginning)}"
    return START


def clean(text: str) -> str:
    """``text`` without control characters (but line breaks and tabs): they carry no meaning for a model."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable()).strip()


class PromptBuilder:
    """Builds prompts with the tokenizer in ``model_dir``, which is loaded on first use; safe to share among threads."""

    def __init__(self, model_dir: str | os.PathLike[str], *, record_tokens: int = RECORD_TOKENS) -> None:
        self._model_dir = os.fspath(model_dir)
        self._record_tokens = record_tokens
        self._lock = threading.Lock()
        self._loaded: Any = None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        with self._lock:
            if self._loaded is None:
                from transformers import AutoTokenizer

                self._loaded = AutoTokenizer.from_pretrained(self._model_dir, local_files_only=True)
            return self._loaded

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    def reserved(self) -> tuple[int, ...]:
        """Ids an answer may never contain: every special token but the end token; ascending."""
        special = {int(i) for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        special.update(int(i) for i in self.tokenizer.all_special_ids)
        return tuple(sorted(special - {self.end_token}))

    def marker(self) -> int:
        """The reserved token that ends a failed group: never part of an answer, so it cannot be mistaken for one."""
        return self.reserved()[-1]

    def written(self, start: str, tokens: Sequence[int]) -> str:
        """The answer so far: its public beginning and what was written after it, without special tokens."""
        ids = [*self._ids(start), *tokens]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _ids(self, text: str) -> list[int]:
        """Token ids of plain text; the names of special tokens inside it are split like any other text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return found

    def _template(self, system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text: str = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _frame(self, question: str, system: str, start: str) -> tuple[list[int], list[int]]:
        """Head and tail around the record. The template's own special tokens are real ones, the question's are not.

        The head is filled up with line breaks after the question: only whole blocks are found in the prefix cache, and
        what is left over would be computed again in every row.
        """
        cut = "\x00question\x00"
        text = self._template(system, f"Question: {cut}\n\nPatient record: {_RECORD_SLOT}")
        opening, rest = text.split(cut)
        middle, closing = rest.split(_RECORD_SLOT)
        asked = self._ids(clean(question))
        if not asked:
            raise InvalidParameter("The question is empty.", field="question")
        if len(asked) > MAX_QUESTION_TOKENS:
            raise InvalidParameter(
                f"A question to a cohort may have at most {MAX_QUESTION_TOKENS} tokens.",
                field="question",
                tokens=len(asked),
            )
        known = self.tokenizer(opening, add_special_tokens=False).input_ids
        known_end = self.tokenizer(closing, add_special_tokens=False).input_ids
        head = [*known, *asked, *self._ids(middle)]
        place = len(known) + len(asked)
        head[place:place] = self._filler() * (-len(head) % BLOCK_TOKENS)
        return head, [*known_end, *self._ids(start)]

    def _filler(self) -> list[int]:
        """One token that fills a row up: a line break."""
        return self._ids("\n")[:1]

    def _slot(self, record: str, tokens: int) -> list[int]:
        """The record's beginning in exactly so many tokens, filled up with line breaks."""
        ids = self._ids(clean(record))[:tokens]
        return ids + self._filler() * (tokens - len(ids))

    def group(
        self,
        question: str,
        documents: Sequence[str],
        contexts: int,
        *,
        start: str | None = None,
        system: str = COHORT_SYSTEM,
        block: int = 0,
    ) -> GroupPrompts:
        """Rows for ``documents``, one text per patient, over exactly ``contexts`` slots.

        A slot without a patient gets the public row, so that neither time nor shape tells how many patients there were.
        The most useful text of a patient should stand first: only the first ``record_tokens`` tokens are read. With a
        ``block`` a little more of each is read, until all tokens of a row but the last fill whole blocks of so many: an
        engine with a cache of such blocks then computes one token of a row that it has seen.
        """
        if len(documents) > contexts:
            raise InvalidParameter("More patients than slots.", field="documents")
        start = opening_of(question) if start is None else start
        head, tail = self._frame(question, system, start)
        read = self._record_tokens
        if block:
            read += (1 - len(head) - read - len(tail)) % block
        public = [*head, *self._slot(NO_RECORD, read), *tail]
        private = [[*head, *self._slot(document, read), *tail] for document in documents]
        private += [public] * (contexts - len(private))
        return GroupPrompts(public=public, private=private, shared=len(head), start=start)


def chart_messages(question: str, record: str) -> list[dict[str, str]]:
    """Messages of a question about one patient's text (access control protects it, not privacy noise)."""
    return [
        {"role": "system", "content": CHART_SYSTEM},
        {"role": "user", "content": f"Patient record:\n{clean(record)}\n\nQuestion: {clean(question)}"},
    ]


def chat_messages(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Messages of a general chat, passed through: role and content only, control characters removed."""
    return [{"role": str(m["role"]), "content": clean(str(m["content"]))} for m in messages]
