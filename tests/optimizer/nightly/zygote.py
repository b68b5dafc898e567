"""A process that has everything imported and forks a `redecode` for each line it is told: starting one costs nothing.

A line in is JSON: the words, the folder, the file for what is said. Two lines out: its pid, and when it is over its
status as `os.waitpid` has it.
"""

import importlib
import json
import os
import sys

from redecode.cli.main import app

for module in ("redecode.cli.nightly_run", "redecode.tracer.store.store", "langchain_openai", "langgraph.graph"):
    importlib.import_module(module)

for line in sys.stdin:
    ask = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(ask["folder"])
        out = os.open(ask["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for fd in (1, 2):
            os.dup2(out, fd)
        sys.path.insert(0, ask["folder"])
        code = 0
        try:
            app(ask["words"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    sys.stdout.write(f"{pid}\n")
    sys.stdout.flush()
    sys.stdout.write(f"{os.waitpid(pid, 0)[1]}\n")
    sys.stdout.flush()
