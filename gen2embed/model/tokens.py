"""Token ids of a rendered prompt, in which only trusted parts may write special tokens."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer


@dataclass(frozen=True)
class PromptTokenizer:
    """Tokenize strings of which some parts may write special tokens and others may not.

    The parts are encoded as one string: prefix spaces, merges across parts and the tokens that the tokenizer adds at
    either end come out as the tokenizer itself makes them. A special token's string counts as such in trusted parts
    only: a twin of the tokenizer knows special tokens by private names, and only trusted parts get these names.

    Args:
        twin: The tokenizer in which special tokens have private names.
        names: The private name of each special token.
        ids: The tokenizer's id of each added token, by the twin's id.
        special: Matches any special token.
        bos: The private name of the token that begins a text; None if there is none.
    """

    twin: Tokenizer
    names: dict[str, str]
    ids: dict[int, int]
    special: re.Pattern[str]
    bos: str | None

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, control: Collection[str] = ()) -> PromptTokenizer:
        """Build one from a fast tokenizer.

        Args:
            tokenizer: A fast tokenizer of transformers.
            control: Added tokens to guard as well, though the tokenizer may not flag them as special.
        """
        backend = tokenizer.backend_tokenizer
        secret = uuid.uuid4().hex  # so that no text can guess a name
        names, indices, added = {}, {}, []
        for index, token in sorted(backend.get_added_tokens_decoder().items()):
            name = token.content
            if token.special or token.content in control:
                name = names[token.content] = f"\ue000{secret}{index}\ue001"
            indices[name] = index
            flags = {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip", "normalized")}
            added.append(AddedToken(name, **flags))
        twin = Tokenizer(backend.model)
        twin.normalizer, twin.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        twin.post_processor = backend.post_processor
        twin.add_tokens(added)
        ids = {number: indices[token.content] for number, token in twin.get_added_tokens_decoder().items()}
        longest_first = sorted(names, key=len, reverse=True)
        special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        return cls(twin, names, ids, special, names.get(str(tokenizer.bos_token)))

    def __call__(self, rows: Iterable[Iterable[tuple[str, bool]]]) -> list[list[int]]:
        """Return the token ids of rows.

        The tokenizer adds no tokens of its own to a row that begins with its BOS, as in `apply_chat_template`.

        Args:
            rows: The parts of each row: a text, and whether special tokens in it count as such.
        """
        texts = [
            "".join(
                self.special.sub(lambda match: self.names[match[0]], part) if trusted else part
                for part, trusted in parts
            )
            for parts in rows
        ]
        ids: list[list[int]] = [[]] * len(texts)
        has_bos = [self.bos is not None and text.startswith(self.bos) for text in texts]
        for begun in (False, True):
            group = [row for row, begins in enumerate(has_bos) if begins == begun]
            encoded = self.twin.encode_batch_fast([texts[row] for row in group], add_special_tokens=not begun)
            for row, encoding in zip(group, encoded, strict=True):
                ids[row] = [self.ids.get(index, index) for index in encoding.ids]
        return ids

    def starts(self, text: str) -> list[int]:
        """Return where each token of a text begins, in characters."""
        return [start for start, _ in self.twin.encode(text, add_special_tokens=False).offsets]
