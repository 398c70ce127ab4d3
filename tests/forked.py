"""For scripts that kill processes of their own: run a function in a forked one."""

import os
import traceback
from collections.abc import Callable


def child(function: Callable, *arguments) -> int:
    """Return how it ended, as `os.waitpid` says it: with status 1 and a traceback where the function raised."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
