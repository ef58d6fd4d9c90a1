"""Texts while they are generated, as they come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from service.http.streaming import StreamNotifier
from service.text.task import Chosen, FinishReason, Row, block_size, chosen
from service.text.tokenizer import Tokenizer

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The text; with `stream`, as it is written."}
}
"""The answer of a route that streams, for OpenAPI."""


@dataclass(frozen=True)
class TextDelta:
    """New text of one row, by its place among those of the request; what the model expected there, if that was asked
    for; and, with the last of it, why it ended: "length" or "stop"."""

    index: int
    text: str
    chosen: list[Chosen]
    finish_reason: FinishReason | None


async def stream_updates(
    notifier: StreamNotifier, tokenizer: Tokenizer, rows: Sequence[Row], logprobs: int, pending: "Sequence[Future[Any]]"
) -> AsyncGenerator[TextDelta, None]:
    """New text as soon as it is there, all of it that is there when the caller can take more, until all are done, or
    one is broken off, which the futures tell; what is echoed comes with the first of it.

    A caller that leaves cancels the rest.
    """
    updated = asyncio.Event()
    loop = asyncio.get_running_loop()
    notifier.add(rows, updated)
    for done in pending:
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(updated.set))
    sent, ended_sent, over = [0] * len(rows), [False] * len(rows), False
    max_length = block_size(logprobs) if logprobs else None
    try:
        while not over:
            await updated.wait()
            updated.clear()
            finished = [done for done in pending if done.done()]
            over = len(finished) == len(pending)
            if any(done.cancelled() or done.exception() is not None for done in finished):
                break
            for i, row in enumerate(rows):
                ended, ready = row.ended, row.ready
                end = len(row.echoed) + ready if ready or ended else 0
                while end > sent[i] or (ended and not ended_sent[i]):
                    since = sent[i]
                    until = end if max_length is None else min(end, since + max_length)
                    sent[i], ended_sent[i] = until, ended and until == end
                    yield TextDelta(
                        i,
                        "".join(row.given(since, until)),
                        chosen(tokenizer, row, since, until, logprobs),
                        row.finish_reason if ended_sent[i] else None,
                    )
                    if until < end:
                        await asyncio.sleep(0)  # that of a long prompt would keep the others waiting
    finally:
        for done in pending:
            done.cancel()
        notifier.remove(rows)
