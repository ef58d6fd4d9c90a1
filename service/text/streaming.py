"""Streams texts while the engine generates them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.text.decoder import FinishReason, Row
from service.text.logprobs import TokenLogprob, block_size, row_logprobs
from service.tokenizer import Tokenizer

if TYPE_CHECKING:
    from service.http.streaming import StreamNotifier

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The text; with `stream`, as it is written."}
}
"""The answer of a route that streams, for OpenAPI."""


@dataclass(frozen=True)
class TextDelta:
    """New text of one row, by the row's index in the request. `logprobs`: of its tokens, if the request asks for them;
    `finish_reason`: with the row's last text."""

    index: int
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None


class UnsentText:
    """The text of rows that their caller has not had yet."""

    def __init__(self, tokenizer: Tokenizer, rows: Sequence[Row], logprobs: int) -> None:
        self._tokenizer = tokenizer
        self._rows = rows
        self._logprobs = logprobs
        self._sent, self._finished = [0] * len(rows), [False] * len(rows)
        self._max_tokens = block_size(logprobs) if logprobs else None

    def deltas(self) -> Iterator[TextDelta]:
        """All that is new, the echo first; a long text with its logprobs in several blocks."""
        for i, row in enumerate(self._rows):
            # `ended` first: the row sets it last, on the engine's thread.
            ended, flushable = row.ended, row.num_flushable
            final = len(row.echo) + flushable if flushable or ended else 0
            while final > self._sent[i] or (ended and not self._finished[i]):
                begin = self._sent[i]
                end = final if self._max_tokens is None else min(final, begin + self._max_tokens)
                self._sent[i], self._finished[i] = end, ended and end == final
                yield TextDelta(
                    i,
                    "".join(row.returned_tokens(begin, end)),
                    row_logprobs(self._tokenizer, row, begin, end, self._logprobs),
                    row.finish_reason if self._finished[i] else None,
                )


async def stream_updates(
    notifier: "StreamNotifier", tokenizer: Tokenizer, rows: Sequence[Row], logprobs: int, pending: Sequence[Future[Any]]
) -> AsyncGenerator[TextDelta, None]:
    """Yield the new text of each row, the echo first, until all rows have ended or a future in `pending` has failed. A
    slow caller gets all that is new at once. Closing the generator cancels the futures."""
    updated = asyncio.Event()
    loop = asyncio.get_running_loop()
    notifier.add(rows, updated)
    for future in pending:
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(updated.set))
    unsent, all_done = UnsentText(tokenizer, rows, logprobs), False
    try:
        while not all_done:
            await updated.wait()
            updated.clear()
            done = [future for future in pending if future.done()]
            all_done = len(done) == len(pending)
            if any(future.cancelled() or future.exception() is not None for future in done):
                break
            for delta in unsent.deltas():
                yield delta
                if logprobs:
                    await asyncio.sleep(0)  # let others use the event loop between the blocks of a long echo
    finally:
        for future in pending:
            future.cancel()
        notifier.remove(rows)
