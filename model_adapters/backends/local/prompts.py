"""Reading prompts that no intervention touches, each distinct beginning once. Imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from model_adapters.backends.local.forward import Forward
from model_adapters.backends.local.plan import BatchPlan
from model_adapters.backends.local.prefixes import LEAST, Past, Prefixes, common_beginning, grown, stacked
from model_adapters.backends.passage import Passage

PREFILL_TOKENS = 2048
"""Most prompt tokens of one prefill pass, padding included, where one prompt has not more by itself: enough to keep
the processor busy, little enough that running rows don't wait long."""


@dataclass(frozen=True)
class PromptReader:
    """Reads the part of prompts that comes before any response position, for rows whose steering leaves it alone.

    So one reading serves all such steerings: the arms of a grid, and the unsteered model that an answer is compared
    with. Keys and values come back; no logits are computed.
    """

    forward: Forward
    pad: int
    prefixes: Prefixes

    def read(self, texts: Sequence[tuple[int, ...]]) -> list[Past]:
        """Keys and values of each text, none of them empty. Equal texts are read once."""
        found = {text: self.prefixes.longest(text) for text in texts}
        unread = [text for text, past in found.items() if past is None or past.length < len(text)]
        self._read_stem(unread, found)
        for group in self._groups(unread, found):
            for text, whole in zip(group, self._pass(group, [found[text] for text in group]), strict=True):
                found[text] = whole
                self.prefixes.keep(text, whole)
        return [past for text in texts if (past := found[text]) is not None]

    def begun(self, texts: Sequence[tuple[int, ...]]) -> list[Past | None]:
        """Keys and values of what is known of each text; where all begin alike, that is read first."""
        found = {text: self.prefixes.longest(text) for text in texts}
        self._read_stem(list(found), found)
        return [found[text] for text in texts]

    def _read_stem(self, unread: Sequence[tuple[int, ...]], found: dict[tuple[int, ...], Past | None]) -> None:
        """Where all unread texts begin alike beyond what is known, read that beginning first."""
        count = common_beginning(unread)
        known = max((past.length for text in unread if (past := found[text]) is not None), default=0)
        if count - known < LEAST:
            return
        stem = unread[0][:count]
        (past,) = self._pass([stem], [self.prefixes.longest(stem)])
        self.prefixes.keep(stem, past)
        found.update(dict.fromkeys(unread, past))

    def _groups(
        self, unread: Sequence[tuple[int, ...]], found: dict[tuple[int, ...], Past | None]
    ) -> list[list[tuple[int, ...]]]:
        """Texts that are read in one pass: with as much left to read, within the token budget."""

        def left(text: tuple[int, ...]) -> int:
            past = found[text]
            return len(text) - (0 if past is None else past.length)

        groups: list[list[tuple[int, ...]]] = []
        for text in sorted(unread, key=left, reverse=True):
            if groups and (len(groups[-1]) + 1) * left(groups[-1][0]) <= PREFILL_TOKENS:
                groups[-1].append(text)
            else:
                groups.append([text])
        return groups

    def _pass(self, texts: Sequence[tuple[int, ...]], pasts: Sequence[Past | None]) -> list[Past]:
        """One unsteered pass over what each past lacks of its text."""
        held = [0 if past is None else past.length for past in pasts]
        rest = [list(text[count:]) for text, count in zip(texts, held, strict=True)]
        passages = [Passage(tokens, len(tokens) + 1) for tokens in rest]
        self.forward.blocks.use(BatchPlan())
        batch = self.forward.behind(held, passages, self.pad)
        cache = stacked(pasts)
        self.forward(batch.tokens, batch.attention, batch.positions, batch.span, cache=cache, use_cache=True)
        return grown(pasts, cache, [len(tokens) for tokens in rest])
