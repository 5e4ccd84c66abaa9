"""Token ids of a rendered prompt: the tokenizer's own, but that special tokens count only where they belong."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer


@dataclass(frozen=True)
class PromptTokenizer:
    """Tokenises strings of which some parts may write special tokens and others may not.

    The parts are encoded as one string: prefix spaces, merges across parts and the tokens that the tokenizer adds at
    either end come out as if the tokenizer had got the whole. A special token's string counts as such in trusted parts
    only, because a twin of the tokenizer knows the special tokens by private names, which only trusted parts get.
    """

    twin: Tokenizer
    names: dict[str, str]  # special token -> private name
    ids: dict[int, int]  # of added tokens: the twin's -> the tokenizer's
    special: re.Pattern[str]
    bos: str | None

    @classmethod
    def of(cls, tokenizer: Any, control: Collection[str] = ()) -> PromptTokenizer:
        """tokenizer: a fast one. control: added tokens to guard, too, though they may not be flagged as special."""
        backend = tokenizer.backend_tokenizer
        secret = uuid.uuid4().hex  # a name must not be guessed by a text
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
        """rows: of each, its parts: a text, and whether its special tokens count.

        The tokenizer's own additions are left out where a row begins with its BOS, as `apply_chat_template` does.
        """
        texts = [
            "".join(
                self.special.sub(lambda match: self.names[match[0]], part) if trusted else part
                for part, trusted in parts
            )
            for parts in rows
        ]
        ids: list[list[int]] = [[]] * len(texts)
        for begun in (False, True):
            its = [at for at, text in enumerate(texts) if (self.bos is not None and text.startswith(self.bos)) == begun]
            encoded = self.twin.encode_batch_fast([texts[at] for at in its], add_special_tokens=not begun)
            for at, encoding in zip(its, encoded, strict=True):
                ids[at] = [self.ids.get(index, index) for index in encoding.ids]
        return ids

    def starts(self, text: str) -> list[int]:
        """Where each token of a text begins, in characters."""
        return [start for start, _ in self.twin.encode(text, add_special_tokens=False).offsets]
