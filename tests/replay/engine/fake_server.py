"""A stand-in for vLLM's API server: a process that gets healthy, or does not, as it is told.

Usage: fake_server.py PORT BEHAVIOUR...
stubborn   ignores SIGTERM          worker  has a child process, as vLLM has its engine core
die=WORDS  prints WORDS and ends    sick    never answers
"""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET /health with 200."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(port: int, behaviours: list[str]) -> None:
    for behaviour in behaviours:
        name, _, value = behaviour.partition("=")
        if name == "die":
            sys.stderr.write(value + "\n")
            raise SystemExit(3)
        if name == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if name == "worker":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
        if name == "sick":
            time.sleep(120)
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
