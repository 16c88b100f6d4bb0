"""The signals that ask a process to save and to end; its exit code is then 128 + the signal's."""

import signal

# A closed terminal, Ctrl-C, `kill` or a scheduler, and what SLURM users choose as the warning
# before a time limit. Lightning would take the last to save in the middle of a step.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
