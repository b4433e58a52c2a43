"""For all tests: no event loop of nobody's, signals that arrive, and programs that are compiled once.

pytest-asyncio asks for the current loop before it makes its own; where none was ever set, Python up to 3.13 then creates one that nobody
closes, and its ResourceWarning fails whichever test the garbage collector happens to run in. Saying "none" once prevents it.

A signal that whoever started pytest ignores (nohup, a background job of a shell without job control) stays ignored in every program the
tests start, which then can be neither interrupted nor told to reload.

Containers often forbid Python to keep what it has compiled. The tests start its programs hundreds of times, so here it may.
"""

import asyncio
import os
import signal
import sys

asyncio.set_event_loop(None)
for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, action)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
