"""Counts the checks of a run."""
import re
import time
import traceback


class Checks:
    """Counts the checks whose names match; one that raises has failed, and the others still run."""

    def __init__(self, only):
        self.passed, self.failed, self.only = 0, 0, re.compile(only)

    def __call__(self, name, check, *args):
        if not self.only.search(name):
            return
        start = time.time()
        try:
            note = check(*args) or ""
            self.passed += 1
            print(f"ok    {name}  {note}  ({time.time() - start:.1f} s)", flush=True)
        except Exception:
            self.failed += 1
            print(f"FAIL  {name}", flush=True)
            traceback.print_exc()
