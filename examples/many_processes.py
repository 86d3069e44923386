"""Many processes, each with an engine of its own over the same pages of memory: what a batch job or a cluster does.

Every process opens the bundle once, when it starts; what travels between them are the questions and the answers. The
same initializer is the `setup` of a Ray actor, the `mapPartitions` of Spark, the worker plugin of Dask.

python examples/many_processes.py build/demo-1.0.0
"""

import multiprocessing
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from concurrent.futures import ProcessPoolExecutor

from musix_runtime import Engine, RecommendRequest

_engines: list[Engine] = []  # the one of this process


def open_engine(bundle: str) -> None:
    _engines.append(Engine.open(bundle))


def best(listener: str) -> list[str]:
    """Ids of the ten tracks that the listener should hear next."""
    answer = _engines[0].recommend(RecommendRequest(user_id=listener))
    return [track.id for track in answer.recommendations]


def main(bundle: str, processes: int = 2) -> None:
    listeners = [f"listener-{i:03d}" for i in range(100)]
    spawn = multiprocessing.get_context("spawn")  # a fresh process, as on another machine
    with ProcessPoolExecutor(processes, spawn, open_engine, (bundle,)) as pool:
        found = dict(zip(listeners, pool.map(best, listeners, chunksize=10), strict=True))
    open_engine(bundle)
    same = sum(best(listener) == found[listener] for listener in listeners)
    print(f"{same} of {len(listeners)} answers of {processes} processes are those of this one")
    if same < len(listeners):
        sys.exit(1)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    main(parser.parse_args().bundle)
