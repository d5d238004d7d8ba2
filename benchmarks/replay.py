"""How fast a node replays a topic, beside what its Kafka client can do with it.

A topic on Apache Kafka filled with our own records, keys, headers and all. Each reading is a process of its own, the
readers take turns, and the clock runs in the process from "connect" to "read to the end":

- ``bare``: aiokafka, ``getmany`` and nothing else: what everybody pays who uses this client;
- ``confluent``: librdkafka, ``consume`` and nothing else, for comparison, once a topic;
- ``memory``, ``shared``: our follower, contract check and all, until it has caught up.

``stage_…_us`` says where the time of one record goes, in microseconds of processor time without a broker, each stage by
itself: ``parse`` is aiokafka's compiled parser, ``consumer`` what its consumer adds to that, ``decode``, ``hash`` and
``insert`` are ours.

    python -m benchmarks.replay --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from benchmarks.population import THREE_KINDS, revocations, work_directory
from benchmarks.report import result_line
from consumers.denylist import DenyList
from consumers.denylist.memory import MemoryDenyList
from consumers.follower import Follower
from consumers.freshness import Freshness, State
from consumers.intake import Intake
from revoker import topic
from revoker.cli.children import die_with_parent
from revoker.events import Revocation
from revoker.record import decode, encode
from revoker.settings import Settings
from tests.brokers.apache import ApacheKafka
from tests.brokers.artifacts import KAFKA_VERSION

PATIENCE_S: Final = 300.0
READERS: Final = ("bare", "shared", "memory", "confluent")


@dataclass(frozen=True)
class Case:
    """One topic."""

    records: int
    partitions: int

    @property
    def name(self) -> str:
        size = f"{self.records // 1_000_000}m" if self.records % 1_000_000 == 0 else f"{self.records // 1000}k"
        return f"{size}_{self.partitions}p"

    def settings(self, bootstrap: str) -> Settings:
        """What leads to it."""
        return Settings(
            kafka_bootstrap_servers=bootstrap,
            topic=f"replay-{self.name}",
            topic_partitions=self.partitions,
            topic_replication_factor=1,
            topic_min_insync_replicas=1,
            algorithms=("HS256",),
            key_secret="benchmark-secret-of-32-bytes-or-more",
            max_entries=10_000_000,
        )


async def read_bare(settings: Settings, _directory: Path) -> int:
    """aiokafka alone."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    partitions = [TopicPartition(settings.topic, number) for number in range(settings.topic_partitions)]
    left = sum((await consumer.end_offsets(partitions)).values())
    consumer.assign(partitions)
    for partition in partitions:
        consumer.seek(partition, 0)
    records = 0
    while records < left:
        for found in (await consumer.getmany(timeout_ms=1000)).values():
            records += len(found)
    await consumer.stop()
    return records


async def read_confluent(settings: Settings, _directory: Path) -> int:
    """librdkafka alone."""
    from confluent_kafka import Consumer
    from confluent_kafka import TopicPartition as Place

    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            "check.crcs": True,
            "fetch.queue.backoff.ms": 1,  # else it pauses for a second whenever its queue is full
        }
    )
    numbers = range(settings.topic_partitions)
    ends = [consumer.get_watermark_offsets(Place(settings.topic, number), timeout=10.0) for number in numbers]
    consumer.assign([Place(settings.topic, number, 0) for number in numbers])
    left = sum(high for _, high in ends)
    records = 0
    while records < left:
        for message in consumer.consume(10_000, timeout=1.0):
            message.value()
            records += 1
    consumer.close()
    return records


async def read_memory(settings: Settings, _directory: Path) -> int:
    """Our follower, deny list in this process."""
    return await _follow(settings, MemoryDenyList(max_entries=settings.max_entries))


async def read_shared(settings: Settings, directory: Path) -> int:
    """Our follower, deny list of the host."""
    from consumers.denylist.shared import SharedDenyList

    denylist = SharedDenyList(directory, max_entries=settings.max_entries)
    denylist.take()
    try:
        return await _follow(settings, denylist)
    finally:
        denylist.close()


async def _follow(settings: Settings, denylist: DenyList) -> int:
    intake = Intake(denylist, retention_ms=settings.lifetimes.retention_ms)
    follower = Follower(settings, intake=intake, freshness=Freshness.from_settings(settings))
    follower.start()
    try:
        await follower.wait_for(State.STALE, timeout_s=PATIENCE_S)
        held = sum(denylist.counts().values())
        if held != intake.applied.total():
            raise RuntimeError(f"{intake.applied.total()} revocations were applied, {held} are held")
        return follower.progress.records
    finally:
        await follower.close()


_READ: Final[dict[str, Callable[[Settings, Path], Any]]] = {
    "bare": read_bare,
    "confluent": read_confluent,
    "memory": read_memory,
    "shared": read_shared,
}


async def run_child(reader: str, settings: Settings) -> dict[str, float]:
    """One reading in this process."""
    with work_directory(in_memory=True) as folder:
        began, began_cpu = time.perf_counter(), time.process_time()
        records = await _READ[reader](settings, folder)
        return {
            "records": records,
            "seconds": time.perf_counter() - began,
            "cpu_s": time.process_time() - began_cpu,
        }


def read(reader: str, bootstrap: str, case: Case) -> dict[str, float]:
    """One reading in a process of its own."""
    command = [*(sys.executable, "-m", "benchmarks.replay", "--child", reader, "--bootstrap", bootstrap)]
    command += ["--records", str(case.records), "--partitions", str(case.partitions)]
    done = subprocess.run(
        die_with_parent(command), stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_S, process_group=0
    )
    said: dict[str, float] = json.loads(done.stdout)
    if said["records"] != case.records:
        raise RuntimeError(f"{reader} read {said['records']} of {case.records} records")
    return said


def fill(bootstrap: str, cases: Sequence[Case]) -> None:
    """Write to all topics at once: encoding a revocation costs more than sending it. Raises RuntimeError if any was not
    acknowledged.
    """
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    topics = [(case.settings(bootstrap).topic, case) for case in cases]
    most = max(case.records for case in cases)
    for count, event in enumerate(revocations(most, kinds=THREE_KINDS, now_s=int(time.time()))):
        key, value, headers = encode(event)
        for name, case in topics:
            if count < case.records:
                producer.produce(name, value, key, partition=count % case.partitions, headers=[*headers])
        if count % 1000 == 0:
            while len(producer) > 500_000:
                producer.poll(0.1)
    if left := producer.flush(60.0):
        raise RuntimeError(f"{left} records were not acknowledged within 60 s")


def stages(records: int = 20_000) -> dict[str, float]:
    """Microseconds of processor time a record, for each stage by itself; the least of several rounds."""
    from consumers.denylist.filing import filed
    from consumers.denylist.fingerprint import Fingerprints
    from consumers.denylist.shared import SharedDenyList

    events = list(revocations(records, kinds=THREE_KINDS, now_s=int(time.time())))
    slices = [events[start : start + 1000] for start in range(0, records, 1000)]
    raw = [_batch(some) for some in slices]
    values = [encode(event)[1] for event in events]
    prints = Fingerprints(bytes(32))

    def hash_all() -> None:
        for some in slices:
            filed(some, prints=prints, epoch_s=0, now=0.0, known=lambda _key: 0).strokes()

    def insert() -> None:
        with work_directory(in_memory=True) as folder:
            denylist = SharedDenyList(folder / "table", max_entries=10**7)
            denylist.take()
            for some in slices:
                denylist.apply_all(some)
            denylist.close()

    took = {
        name: min(_cpu_s(stage) for _ in range(5)) / records * 1e6
        for name, stage in {
            "parse": lambda: deque(map(_parse, raw), maxlen=0),
            "consumer": lambda: deque(map(_consume, raw), maxlen=0),
            "decode": lambda: [decode(value) for value in values],
            "hash": hash_all,
            "insert": insert,
            "memory": lambda: MemoryDenyList(max_entries=10**7).apply_all(events),
        }.items()
    }
    took["consumer"] -= took["parse"]
    took["insert"] -= took["hash"]
    return took


def _batch(events: Sequence[Revocation]) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for number, event in enumerate(events):
        key, value, headers = encode(event)
        builder.append(number, 1, key, value, [*headers])
    return bytes(builder.build())


def _parse(raw: bytes) -> None:
    batch = MemoryRecords(raw).next_batch()
    if batch is None or not batch.validate_crc():
        raise RuntimeError("a batch made here cannot be read")
    for _ in batch:
        pass


def _consume(raw: bytes) -> None:
    for _ in PartitionRecords(TopicPartition("t", 0), MemoryRecords(raw), [], 0, None, None, True, 0):
        pass


def _cpu_s(stage: Callable[[], object]) -> float:
    began = time.process_time()
    stage()
    return time.process_time() - began


def measure(options: argparse.Namespace) -> str:
    """Run it all; returns the result line."""
    cases = [Case(records, partitions) for records in options.records for partitions in options.partitions]
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    with ExitStack() as opened:
        kafka = opened.enter_context(ApacheKafka())
        for case in cases:
            asyncio.run(_create(case.settings(kafka.bootstrap)))
        fill(kafka.bootstrap, cases)
        for case in cases:
            took: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
            # A million records measure themselves: one turn, or the whole would not fit into its minutes.
            for repetition in range(options.repetitions if case.records < 1_000_000 else 1):
                for reader in READERS:
                    if reader != "confluent" or not repetition:
                        took[reader].append(read(reader, kafka.bootstrap, case))
            for reader, said in took.items():
                seconds = statistics.median(one["seconds"] for one in said)
                figures[f"{case.name}_{reader}_records_per_s"] = case.records / seconds
                cpu_s = statistics.median(one["cpu_s"] for one in said)
                figures[f"{case.name}_{reader}_cpu_us"] = cpu_s / case.records * 1e6
            for reader in ("shared", "memory"):
                rates = [figures[f"{case.name}_{one}_records_per_s"] for one in (reader, "bare")]
                ratios[f"{case.name}_{reader}_over_bare"] = rates[0] / rates[1]
    for reader in ("shared", "memory"):
        ratios[f"{reader}_over_bare"] = min(ratios[f"{case.name}_{reader}_over_bare"] for case in cases)
    took_us = stages()
    figures |= {f"stage_{name}_us": us for name, us in took_us.items()}
    ours = [took_us[name] for name in ("parse", "decode", "hash", "insert")]
    for name, us in zip(("parse", "decode", "hash", "insert"), ours, strict=True):
        figures[f"share_{name}"] = us / sum(ours)
    return result_line("replay", figures=figures, ratios=ratios, versions={"apache_kafka": KAFKA_VERSION})


async def _create(settings: Settings) -> None:
    await topic.create(settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[300_000, 1_000_000], help="revocations in a topic")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the result line alone")
    parser.add_argument("--child", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        settings = Case(options.records[0], options.partitions[0]).settings(options.bootstrap)
        print(json.dumps(asyncio.run(run_child(options.child, settings))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    line = measure(options)
    if not options.json:
        result = json.loads(line)
        for name, value in (result["figures"] | result["ratios"]).items():
            print(f"{name:40} {value:14.3f}")
    print(line)


if __name__ == "__main__":
    main()
