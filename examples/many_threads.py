"""One engine, asked from many threads at once: the answers are those that one thread gets.

An engine is never changed by a question, so it needs no lock and no copy for each thread.

python examples/many_threads.py build/demo-1.0.0
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from concurrent.futures import ThreadPoolExecutor

from musix_runtime import Engine, RecommendRequest


def main(bundle: str, threads: int = 8) -> None:
    engine = Engine.open(bundle)
    requests = [RecommendRequest(user_id=f"listener-{i:03d}", limit=10) for i in range(100)]
    serial = [engine.recommend(request).recommendations for request in requests]
    with ThreadPoolExecutor(threads) as pool:
        answers = [answer.recommendations for answer in pool.map(engine.recommend, requests)]
    same = sum(one == other for one, other in zip(answers, serial, strict=True))
    print(f"{same} of {len(requests)} answers of {threads} threads are those of one thread")
    if same < len(requests):
        sys.exit(1)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    main(parser.parse_args().bundle)
