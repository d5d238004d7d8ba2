"""The confirmation of a wide rule: whose it is, what it is for, and how long it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from revoker.events import Everything, Issuer, Revocation
from revoker.expiry import FUTURE_CUTOFF_S
from revoker.publisher import Publisher, compose
from revoker.service.admins import Admin, admins_from_setting
from revoker.service.confirmation import VALID_S, Claimed, Confirmations, claimed, untimely
from revoker.settings import Settings
from tests import samples
from tests.service_door import ADMIN_TOKENS, Answer, Door, open_door
from tests.service_door import without_kafka as settings

NOW = 1_700_000_000
OTHER_SECRET = "s3cr3t-other-0123456789"
BODY: dict[str, Any] = {"kind": "client", "iss": "", "client_id": "c"}

(ROOT, OTHER) = ADMINS = admins_from_setting(f"root:s3cr3t-root-0123456789:*,other:{OTHER_SECRET}:*")


class Recorded(Publisher):
    """A publisher that keeps what it is given, and says as one whose Kafka is away that it was not accepted."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.given: list[Revocation] = []

    async def publish(self, revocation: Revocation) -> Any:
        """See `Publisher.publish`."""
        self.given.append(revocation)
        return await super().publish(revocation)


class Wall:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    """The service's clock."""
    return Wall()


@pytest.fixture
def publisher() -> Recorded:
    """The service's publisher."""
    return Recorded(settings())


@pytest.fixture
async def door(wall: Wall, publisher: Recorded) -> AsyncIterator[Door]:
    """A service with two all-mighty admins whose Kafka is away: what it publishes ends in 503."""
    admins = f"{ADMIN_TOKENS},other:{OTHER_SECRET}:*"
    async with open_door(settings(admin_tokens=admins), publisher=publisher, wall=wall) as found:
        yield found


def event(selector: Any = None, **changes: Any) -> Revocation:
    fields: dict[str, Any] = {"now_s": NOW, "event_id": "e-1", "actor": "admin:root"} | changes
    return compose(selector=selector or Everything(), lifetimes=samples.settings().lifetimes, **fields)


async def given(confirmations: Confirmations, admin: Admin = ROOT, **changes: Any) -> Claimed:
    found = claimed(await confirmations.issue(event(**changes), admin=admin))
    assert found is not None
    return found


async def test_every_instance_takes_what_another_gave_out() -> None:
    """The same admins make the same key, in whatever order and spacing the setting lists them."""
    elsewhere = Confirmations(tuple(reversed(ADMINS)))
    assert await elsewhere.holds(await given(Confirmations(ADMINS)), event=event(), admin=ROOT)


@pytest.mark.parametrize(
    "changes",
    [
        {"selector": Issuer(iss="")},
        {"cutoff": NOW - 1},
        {"now_s": NOW + 1},
        {"event_id": "e-2"},
        {"reason": "another"},
        {"actor": "admin:other"},
    ],
)
async def test_it_holds_for_nothing_but_the_event_previewed(changes: dict[str, Any]) -> None:
    """Another selector, cut-off, time, id, reason or actor is another event."""
    confirmations = Confirmations(ADMINS)
    assert not await confirmations.holds(await given(confirmations), event=event(**changes), admin=ROOT)


async def test_it_holds_for_nobody_but_the_admin_who_was_shown_it() -> None:
    """Though all of it is known to the other admin."""
    confirmations = Confirmations(ADMINS)
    assert not await confirmations.holds(await given(confirmations), event=event(), admin=OTHER)


@pytest.mark.parametrize(
    "tokens",
    [
        f"root:s3cr3t-root-0123456789:*,other:{OTHER_SECRET}x:*",
        f"root:s3cr3t-root-0123456789:*,other:{OTHER_SECRET}:token",
        "root:s3cr3t-root-0123456789:*",
    ],
)
async def test_a_change_of_any_admin_ends_it(tokens: str) -> None:
    """A rotated secret, other kinds, a colleague who is gone."""
    changed = Confirmations(admins_from_setting(tokens))
    assert not await changed.holds(await given(Confirmations(ADMINS)), event=event(), admin=ROOT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.e.",
        f"{NOW}.e-1.{'A' * 42}",
        f"{NOW}.e-1.{'A' * 43}\n",
        f"{NOW}.e 1.{'A' * 43}",
        f"-1.e-1.{'A' * 43}",
        f"1{NOW}00.e-1.{'A' * 43}",
        f"٣.e-1.{'A' * 43}",
        "x" * 10_000,
    ],
)
def test_what_is_none_is_none(text: str) -> None:
    """Nothing but the one spelling is taken apart."""
    assert claimed(text) is None


@pytest.mark.parametrize(
    ("age_s", "timely"),
    [(0, True), (VALID_S, True), (VALID_S + 1, False), (-FUTURE_CUTOFF_S, True), (-FUTURE_CUTOFF_S - 1, False)],
)
def test_it_holds_for_five_minutes(age_s: int, timely: bool) -> None:
    """And as long as another instance's clock may be ahead."""
    said = Claimed(issued_at=NOW, event_id="e", mac="")
    assert (untimely(said, now_s=NOW + age_s) is None) is timely


async def test_it_shows_no_secret_and_no_mac_in_its_repr() -> None:
    """A confirmation in a traceback is worth nothing."""
    said = await given(Confirmations(ADMINS))
    assert said.mac not in repr(said)


async def test_the_first_answer_publishes_nothing_and_says_what_would(door: Door, publisher: Recorded) -> None:
    """428 with the rule in words and for machines, no number that nobody knows, and until when it may be confirmed."""
    answer = await door.revoke(BODY)
    assert (answer.status, answer.problem["code"]) == (428, "confirmation_needed")
    assert "Revoker-Confirmation" in answer.problem["detail"]
    found = answer.problem["preview"]
    assert (found["kind"], found["selector"]) == ("client", {"iss": "", "client_id": "c"})
    assert (found["issued_until"], answer.problem["confirm_before"]) == (NOW, NOW + 300)
    assert found["kept_until"] == event().expires_at
    assert found["reach"] == {"every_issuer": False, "own_issuer": None, "admin_tokens": False}
    assert "stored nowhere" in found["not_known"]
    assert publisher.given == []


async def test_confirmed_it_is_what_was_previewed(door: Door, publisher: Recorded, wall: Wall) -> None:
    """Cut-off, id and expiry are those of the preview, although time went on; so a repetition is the same event."""
    preview = await door.revoke(BODY)
    wall.now += 299
    again = [await door.revoke(BODY, confirmation=preview.problem["confirmation"]) for _ in range(2)]
    assert [answer.status for answer in again] == [503, 503]  # its Kafka is away
    first, second = publisher.given
    assert first == second
    assert (first.id, first.cutoff) == (preview.problem["preview"]["event_id"], NOW)
    assert (first.revoked_at, first.actor) == (NOW, "admin:root")


@pytest.mark.parametrize(
    ("body", "secret", "after_s", "code"),
    [
        (BODY | {"client_id": "d"}, None, 0, "confirmation_refused"),
        (BODY | {"reason": "x"}, None, 0, "confirmation_refused"),
        (BODY | {"cutoff": NOW - 1}, None, 0, "confirmation_refused"),
        ({"kind": "all"}, None, 0, "confirmation_refused"),
        (BODY, OTHER_SECRET, 0, "confirmation_refused"),
        (BODY, None, 301, "confirmation_expired"),
        (BODY, None, -3600, "confirmation_expired"),
    ],
)
async def test_anything_else_is_a_new_preview(
    door: Door,
    publisher: Recorded,
    wall: Wall,
    body: dict[str, Any],
    secret: str | None,
    after_s: int,
    code: str,
) -> None:
    """Another body, another admin, too late, a clock set back: the reason is said, and nothing is published."""
    first = await door.revoke(BODY)
    wall.now += after_s
    arguments = {} if secret is None else {"secret": secret}
    answer = await door.revoke(body, confirmation=first.problem["confirmation"], **arguments)
    assert (answer.status, answer.problem["code"]) == (428, code)
    assert answer.problem["confirmation"] != first.problem["confirmation"]
    assert publisher.given == []


async def test_the_spelling_of_the_body_does_not_matter(door: Door, publisher: Recorded) -> None:
    """Order, spaces and escapes of JSON say the same; what counts is the event."""
    preview = await door.revoke(BODY)
    headers = {
        "Authorization": f"Bearer {ADMIN_TOKENS.split(':')[1]}",
        "Content-Type": "application/json",
        "Revoker-Confirmation": preview.problem["confirmation"],
    }
    body = b' {"client_id" : "\\u0063","kind":"client", "iss":""}'
    assert (await door.ask("POST", "/revocations", data=body, headers=headers)).status == 503
    assert len(publisher.given) == 1


@pytest.mark.parametrize("body", [b'{"kind":"all","kind":"client"}', b'{"kind":"all","reason":1e999,"reason":"b"}'])
async def test_a_name_that_stands_twice_is_refused(door: Door, body: bytes) -> None:
    """Whoever looked at the body on its way may have read the other one."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKENS.split(':')[1]}", "Content-Type": "application/json"}
    answer = await door.ask("POST", "/revocations", data=body, headers=headers)
    assert answer.status in (400, 422)
    if answer.status == 422:
        assert "stands twice" in answer.problem["detail"]


async def test_two_confirmations_are_none(door: Door, publisher: Recorded) -> None:
    """A repeated header, one of them right, is not picked from."""
    right = (await door.revoke(BODY)).problem["confirmation"]
    headers = [
        ("Authorization", f"Bearer {ADMIN_TOKENS.split(':')[1]}"),
        ("Revoker-Confirmation", right),
        ("Revoker-Confirmation", right),
    ]
    answer = await door.ask("POST", "/revocations", json=BODY, headers=headers)
    assert (answer.status, answer.problem["code"]) == (428, "confirmation_refused")
    assert publisher.given == []


async def test_what_needs_no_confirmation_takes_none(door: Door, publisher: Recorded) -> None:
    """With the confirmation of a wide rule, another body was meant."""
    right = (await door.revoke(BODY)).problem["confirmation"]
    answer = await door.revoke({"kind": "session", "iss": "", "sid": "s"}, confirmation=right)
    assert (answer.status, answer.problem["code"]) == (422, "confirmation_not_needed")
    assert publisher.given == []


async def test_a_withdrawal_needs_its_own_scope_and_no_confirmation() -> None:
    """Who may publish a wide rule may take one back only with the kind withdrawal."""
    admins = f"half:{OTHER_SECRET}:all,whole:{OTHER_SECRET}x:all+withdrawal"
    body = {"kind": "withdrawal", "event_id": "e"}
    async with open_door(settings(admin_tokens=admins)) as door:
        half = await door.revoke(body, secret=OTHER_SECRET)
        whole = await door.revoke(body, secret=f"{OTHER_SECRET}x")
    assert (half.status, half.problem["code"]) == (403, "insufficient_scope")
    assert whole.status == 503  # let through, to a Kafka that is away


async def test_a_body_that_is_wrong_is_not_previewed(door: Door) -> None:
    """A cut-off too far ahead is refused at once, not after the confirmation."""
    assert (await door.revoke({"kind": "all", "cutoff": NOW + 100})).status == 422


async def test_two_hundred_and_fifty_six_at_once_are_one_event(door: Door, publisher: Recorded) -> None:
    """However often a confirmation is brought back at once, it is one event, and the service stays in time."""
    preview = await door.revoke(BODY)

    async def confirm() -> Answer:
        return await door.revoke(BODY, confirmation=preview.problem["confirmation"])

    began = time.monotonic()
    answers = await asyncio.gather(*(confirm() for _ in range(256)))
    assert {answer.status for answer in answers} == {503}
    assert len(set(publisher.given)) == 1
    assert time.monotonic() - began < 20
