"""Stands in for the engine worker and does what TensorRT's libraries do on a bad day."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text())
    print("these are my last words", file=sys.stderr, flush=True)
    match request["task"]:
        case "hang":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(request["child"]).write_text(str(child.pid))
            time.sleep(600)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "out of memory":
            os.kill(os.getpid(), signal.SIGKILL)
        case "refuse":
            answer = {
                "error": "Invalid Engine",
                "messages": [{"severity": "error", "text": "no such kernel", "count": 1}],
            }
            Path(request["answer"]).write_text(json.dumps(answer))
            sys.exit(3)
