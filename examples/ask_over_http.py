"""Start `musix serve` on a free port, ask it two questions over HTTP, print the answers, stop it.

python examples/ask_over_http.py build/demo-1.0.0
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path


def ask(url: str, question: dict[str, object]) -> str:
    """Post a question as JSON; the answer, indented."""
    request = urllib.request.Request(url, json.dumps(question).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.dumps(json.load(response), indent=2, ensure_ascii=False)


def wait_until_ready(server: subprocess.Popen[bytes], url: str, seconds: float = 30) -> None:
    """Return when the server answers; end the program when it stopped or does not come up."""
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"{url}: expected a server that is ready, found none; run `musix serve` to see why")


def main(bundle: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    musix = Path(sys.executable).with_name("musix")
    server = subprocess.Popen(
        [musix, "serve", bundle, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(server, url)
        for path, question in (
            ("/api/ml/classify", {"trackId": "simulated0000000000001"}),
            ("/api/ml/recommend", {"userId": "listener-001", "limit": 3, "context": {"hour": 20}}),
        ):
            print(f"POST {path} {json.dumps(question)}\n\n{ask(url + path, question)}\n", flush=True)
    except BrokenPipeError:  # who read the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    main(parser.parse_args().bundle)
