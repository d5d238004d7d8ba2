"""Asks the brokers, beside the reading, what no fetch tells: who leads, is it still the same topic, does it keep its
contract.

An old leader that was cut off from its cluster, or that became a follower, goes on answering empty fetches that look
perfect. A topic deleted and made again restarts its offsets. A retention somebody shortened deletes revocations that
are still needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from contextvars import ContextVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from consumers.freshness import Freshness, Question
from revoker.cluster import TopicView, look, newer_leader, permitted
from revoker.ends import ends_of
from revoker.errors import BrokerError, BrokerUnreachable
from revoker.settings import Settings
from revoker.topic import Report, check_with, enforce

__all__ = ["CONTRACT_EVERY_ROUNDS", "TopicReplaced", "Watch", "asking"]

#: How soon the brokers may be asked again when something waits for the answer.
_ASK_AGAIN_S = 0.25

#: The topic's settings are looked at again after so many questions who leads: by default once a minute.
CONTRACT_EVERY_ROUNDS = 12

#: Whether the running task asks for a watch. What its own connections suffer tells nothing about the fetches.
asking: ContextVar[bool] = ContextVar("asking", default=False)


class TopicReplaced(BrokerError):
    """The topic was deleted and made again, or its partitions changed: positions in the old one mean nothing in the
    new.
    """


class Watch:
    """The questions of one session. ``first`` and ``report``: what the brokers said at its start.

    ``noted`` is called with what is newly known after each question, ``checked`` after each look at the contract. Set
    ``ask_now`` when an answer would change the state.
    """

    def __init__(
        self,
        client: AIOKafkaClient,
        *,
        settings: Settings,
        freshness: Freshness,
        first: TopicView,
        report: Report,
        noted: Callable[[TopicView | None], None],
        checked: Callable[[Report], None],
    ) -> None:
        self.ask_now: asyncio.Event = asyncio.Event()
        self._client = client
        self._settings = settings
        self._freshness = freshness
        self._first = first
        self._view = first
        self._report = report
        self._noted = noted
        self._checked = checked
        #: The highest leader epoch seen so far, by partition.
        self._epochs = {number: one.leader_epoch for number, one in first.partitions.items()}
        #: Partitions whose new leader has not told yet where they end.
        self._unsettled: set[int] = set()

    async def run(self) -> None:
        """Ask now and then; again, at growing distances, while the answers confirm nothing; at once when told to.

        Ends only by raising: TopicReplaced, TopicMissing, NotPermitted, or another BrokerError that a new session has
        to look into.
        """
        asking.set(True)
        interval_s = self._settings.watch_s
        doubts = 0
        # The session has asked just before, and no answer confirms anything before the first poll. A question at once
        # would cost a node that has nothing to replay the pause after it: half of its warm start.
        await self._until_asked(_ASK_AGAIN_S)
        while True:
            self.ask_now.clear()
            question = self._freshness.asking()
            view: TopicView | None = None
            confirmed = False
            try:
                view = await look(
                    self._client,
                    self._settings.topic,
                    timeout_s=min(interval_s, self._settings.request_timeout_s),
                )
            except BrokerUnreachable as error:
                self._freshness.unconfirmed(str(error))
            else:
                self._same_topic(view)
                confirmed = self._judge(view, question, elected=await self._elections(view))
            self._view = view or self._view
            self._noted(view)
            # A whole interval after an election, before the new leader's polls are confirmed, would cost the node its
            # bound: a failover takes most of it already.
            doubts = 0 if confirmed else doubts + 1
            wait_s = interval_s if confirmed else min(_ASK_AGAIN_S * 2 ** min(doubts - 1, 10), interval_s)
            # From question to question: a broker that swallows them all costs a time-out each time, and with a whole
            # interval after it two questions would not fit into one bound.
            wait_s = max(wait_s - (self._freshness.monotonic() - question.asked_at), min(_ASK_AGAIN_S, wait_s))
            await asyncio.sleep(min(_ASK_AGAIN_S, wait_s))
            await self._until_asked(max(0.0, wait_s - _ASK_AGAIN_S))

    async def _until_asked(self, longest_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self.ask_now.wait()

    def _same_topic(self, view: TopicView) -> None:
        permitted(view, "Read")
        first = self._first
        if view.topic_id != first.topic_id:
            raise TopicReplaced(
                f"topic {view.topic} was deleted and made again: replaying the new one from its beginning"
            )
        if set(view.partitions) != set(first.partitions):
            raise TopicReplaced(
                f"topic {view.topic} has {len(view.partitions)} partitions, had {len(first.partitions)}: "
                "replaying all of them"
            )

    async def _elections(self, view: TopicView) -> str | None:
        """Discard what was polled across elections; in words what follows, None if there was none.

        A new leader's high watermark may stand below what the old one acknowledged until the other replicas have
        fetched from it (KIP-207), for as long as one of them hangs. It answers fetches meanwhile, as if that were all.
        """
        found = {number for number, one in view.partitions.items() if one.leader_epoch != self._epochs[number]}
        for number in found:
            self._epochs[number] = max(self._epochs[number], view.partitions[number].leader_epoch)
            self._freshness.elected(number)
        self._unsettled |= found
        if not self._unsettled:
            return None
        try:
            told = await ends_of(
                self._client, view, timeout_s=self._settings.request_timeout_s, only=sorted(self._unsettled)
            )
        except (KafkaError, OSError):
            told = {}
        for number in told:
            # What was polled before it knew, and the answer under way, may have stopped short.
            self._freshness.elected(number)
        self._unsettled -= told.keys()
        if self._unsettled:
            return f"the new leader of partition {min(self._unsettled)} does not know yet what was acknowledged"
        return "an election took place since the brokers were last asked"

    def _judge(self, view: TopicView, question: Question, *, elected: str | None) -> bool:
        """Whether the brokers' answers confirm a poll of every partition."""
        freshness = self._freshness
        if elsewhere := newer_leader(view, known=question.leaders):
            number, leader = next(iter(elsewhere.items()))
            freshness.unconfirmed(
                f"partition {number} is led by broker {leader}, read from broker {question.leaders[number]}"
            )
            self._client.force_metadata_update()
        elif 2 * view.answered <= view.asked:
            # Fewer than half could all be cut off together with an old leader, and agree with it.
            freshness.unconfirmed(f"only {view.answered} of {view.asked} brokers said who leads")
        elif view.dissenting:
            freshness.unconfirmed(f"{view.dissenting} of {view.answered} brokers see another topic of this name")
        elif elected:
            freshness.unconfirmed(elected)
        else:
            freshness.confirmed(question)
            # After a doubt there may be no poll yet that a good answer could confirm.
            return all(math.isfinite(question.polled_at[number]) for number in view.partitions)
        return False

    async def check_contract(self) -> None:
        """Look at the contract now and then, beside `run`: a broker that swallows the questions must not delay it.

        Ends only by raising: ContractViolated, TopicMissing, or another BrokerError.
        """
        asking.set(True)
        while True:
            await asyncio.sleep(CONTRACT_EVERY_ROUNDS * self._settings.watch_s)
            await self._check_contract(self._view)

    async def _check_contract(self, view: TopicView) -> None:
        try:
            report = await check_with(self._client, settings=self._settings, view=view)
        except BrokerUnreachable:
            return  # that brokers are away is the next question's to tell
        self._checked(report)
        if report.violations != self._report.violations:  # else the same lines would be logged once a minute
            enforce(report, mode=self._settings.topic_check)
            self._report = report
