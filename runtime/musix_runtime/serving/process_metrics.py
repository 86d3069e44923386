"""Metrics of the processes of a server: CPU time, memory and open files, where there is a /proc."""

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

PROC = Path("/proc")
SHARED_FILE = re.compile(r"_([0-9]+)\.db\Z")  # of prometheus-client: KIND_PID.db


class WorkerProcesses(Collector):
    """`process_*` of all workers that share their metrics in a folder, by process id.

    Their sum would fall when a worker is replaced, which Prometheus takes for a counter that begins again at 0; and
    the figures of the worker that happens to answer would jump.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for pid in self._workers():
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                labelled = [sample._replace(labels={"pid": pid}) for sample in family.samples]
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                families[family.name].samples += labelled
        yield from families.values()

    def _workers(self) -> list[str]:
        """Return the ids of the running processes; a worker that has ended leaves its files."""
        found = {match[1] for path in self._folder.iterdir() if (match := SHARED_FILE.search(path.name))}
        return sorted((pid for pid in found if (PROC / pid).exists()), key=int)
