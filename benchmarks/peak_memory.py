"""Run a command and write its peak resident memory in kB and its CPU seconds to a file descriptor.

    python -S benchmarks/peak_memory.py DESCRIPTOR COMMAND ...

A child inherits the peak of the process that starts it, so this launcher imports almost nothing. It exits
with the command's exit code.
"""

import os
import sys

if __name__ == "__main__":
    pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    _, status, used = os.wait4(pid, 0)
    with open(int(sys.argv[1]), "w") as pipe:
        print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=pipe)
    sys.exit(os.waitstatus_to_exitcode(status))
