"""A recommender in five lines: open a bundle once, ask it as often as you like, from as many threads as you like.

python examples/library.py build/demo-1.0.0
"""

import sys

from musix_runtime import Engine, RecommendRequest

if len(sys.argv) != 2:
    print(__doc__, file=sys.stderr)
    sys.exit(2)
engine = Engine.open(sys.argv[1])  # every file is verified, then mapped; nothing else of your process is touched
answer = engine.recommend(RecommendRequest(user_id="listener-001", limit=3))
for track in answer.recommendations:
    print(f"{track.score:.3f}  {track.artist} - {track.name}: {track.reason}")
