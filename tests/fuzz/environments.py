"""What a process finds when it starts: variables, limits, descriptors, folders, signals."""

import os
import resource
import shutil
import signal
import subprocess
import tempfile

from hypothesis import strategies as st

from fuzz.invariants import Surroundings

VARIABLES = {
    "LC_ALL": ("C", "POSIX", "C.UTF-8", "de_DE.UTF-8", "xx_YY", "tr_TR.ISO-8859-9", ""),
    "LANG": ("C", "ja_JP.eucJP", ""),
    "TERM": ("dumb", "xterm-256color", "unknown", "", None),
    "COLUMNS": ("1", "0", "-5", "x", "100000"),
    "LINES": ("1", "x"),
    "NO_COLOR": ("1",),
    "FORCE_COLOR": ("1", "0"),
    "PYTHONIOENCODING": ("ascii", "latin-1", "utf-8:strict", "utf-16", "ascii:replace"),
    "PYTHONUTF8": ("0", "1"),
    "PYTHONCOERCECLOCALE": ("0",),
    "PYTHONOPTIMIZE": ("1", "2"),
    "PYTHONHASHSEED": ("0", "1", "4294967295", "random"),
    "PYTHONUNBUFFERED": ("1",),
    "PYTHONDONTWRITEBYTECODE": ("1",),
    "PYTHONWARNINGS": ("ignore", "default", "always"),
    "PYTHONFAULTHANDLER": ("1",),
    "PYTHONDEVMODE": ("1",),
    "PYTHONNOUSERSITE": ("1",),
    "PYTHONSAFEPATH": ("1",),
    "OMP_NUM_THREADS": ("0", "1", "2", "3,2", "-1", "x", "", "64", None),
    "MKL_NUM_THREADS": ("0", "2", "x"),
    "OMP_WAIT_POLICY": ("active", "x"),
    "OMP_THREAD_LIMIT": ("1", "0"),
    "HOME": (None, "", "/nonexistent", "relative"),
    "USER": (None,),
    "PATH": ("", "/nonexistent", None),
    "TMPDIR": ("/nonexistent", "/proc", "", "relative"),
    "XDG_CACHE_HOME": ("/nonexistent", ""),
    "MPLCONFIGDIR": ("/nonexistent", "/proc"),
    "MPLBACKEND": ("agg", "nonsense"),
    "TZ": ("", "x", "Pacific/Kiritimati"),
    "MUJOCO_GL": ("egl", "disabled", "osmesa", "x", ""),
    "CUDA_VISIBLE_DEVICES": ("", "-1", "0,1", "x"),
    "GIT_DIR": ("/nonexistent", "/"),
    "M3DT_TRACEBACK": ("", None),
    "MASTER_ADDR": ("nowhere", ""),
    "MASTER_PORT": ("0", "x", "99999"),
}
LAUNCHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE",
    "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID",
    "SLURM_JOB_NAME", "SLURM_NTASKS_PER_NODE", "JSM_NAMESPACE_RANK", "TORCHELASTIC_RUN_ID",
    "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "KUBERNETES_PORT", "LSB_JOBID",
)  # fmt: skip
LAUNCHED = ("0", "1", "2", "-1", "", "x", "bash", "2(x3)")
LIMITS = {
    resource.RLIMIT_NOFILE: (12, 16, 24, 40, 64, 128),
    resource.RLIMIT_FSIZE: (0, 100, 4096, 20_000, 200_000),
    resource.RLIMIT_AS: (2**30, 3 * 2**30, 6 * 2**30, 12 * 2**30),
    resource.RLIMIT_STACK: (2**20, 2**26),
    resource.RLIMIT_CORE: (0,),
    resource.RLIMIT_MEMLOCK: (0,),
}
BASH, MOUNT, TOOL = (shutil.which(name) for name in ("bash", "mount", "unshare"))
UNSHARE = [TOOL, "--user", "--map-root-user", "--mount", BASH, "-c"]
TRIAL = [*UNSHARE, f"{MOUNT} -t tmpfs tmpfs /tmp"]
MOUNTS = bool(TOOL and MOUNT) and not subprocess.run(TRIAL, capture_output=True).returncode
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def draw_surroundings(data, folder):
    """Draw one to three peculiarities of a process; `folder` is for its temporary files."""
    around = Surroundings(folder=str(folder), temporary=str(folder))
    kinds = st.sampled_from(PECULIARITIES)
    for kind in data.draw(st.lists(kinds, min_size=1, max_size=3, unique=True)):
        kind(data, around)
    return around


def some_variables(data, around):
    for name in data.draw(st.lists(st.sampled_from(sorted(VARIABLES)), min_size=1, max_size=3)):
        around.variables[name] = data.draw(st.sampled_from(VARIABLES[name]))


def variables_of_launchers(data, around):
    for name in data.draw(st.lists(st.sampled_from(LAUNCHERS), min_size=1, max_size=5)):
        around.variables[name] = data.draw(st.sampled_from(LAUNCHED))


def a_limit(data, around):
    which = data.draw(st.sampled_from(sorted(LIMITS)))
    size = data.draw(st.sampled_from(LIMITS[which]))
    around.limits.append(lambda: resource.setrlimit(which, (size, size)))
    # Python itself dies where it cannot allocate or open what it starts with; words need space.
    around.heard = around.heard and which != resource.RLIMIT_FSIZE


def closed_descriptors(data, around):
    closed = data.draw(st.sets(st.sampled_from([0, 1, 2]), min_size=1))
    around.prepare.append(lambda: [os.close(number) for number in closed])
    around.heard = around.heard and 2 not in closed


def a_full_output(data, around):
    around.stdout = data.draw(st.sampled_from(["/dev/full", "/dev/null"]))


def an_output_nobody_reads(data, around):
    """A pipe whose reader has gone, as after `| head -1`."""

    def close():
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)

    around.prepare.append(close)


def a_deleted_folder(data, around):
    gone = tempfile.mkdtemp(dir=around.temporary)
    around.folder = gone
    around.prepare.append(lambda: shutil.rmtree(gone))


def a_umask(data, around):
    mask = data.draw(st.sampled_from([0, 0o077, 0o027, 0o777]))
    around.prepare.append(lambda: os.umask(mask))


def a_small_disk(data, around):
    """A small or read-only disk for temporary files or shared memory, for this process alone."""
    if not MOUNTS:
        return
    place = data.draw(st.sampled_from(["/dev/shm", "$TMPDIR"]))
    if place == "$TMPDIR":
        around.variables["TMPDIR"] = tempfile.mkdtemp(dir=around.temporary)
    options = data.draw(st.sampled_from(["size=4k", "size=64k", "ro"]))
    script = f'{MOUNT} -t tmpfs -o {options} tmpfs "{place}" && exec "$@"'
    around.wrapper = [*UNSHARE, script, "bash"]


def a_signal(data, around):
    around.signal = (data.draw(st.sampled_from(ENDING)), data.draw(st.floats(0, 6)))


def nohup(data, around):
    around.prepare.append(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))


def ignored_signals(data, around):
    number = data.draw(st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGPIPE]))
    kept = data.draw(st.sampled_from([signal.SIG_IGN, signal.SIG_DFL]))
    around.prepare.append(lambda: signal.signal(number, kept))


def one_cpu(data, around):
    around.prepare.append(lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))


PECULIARITIES = (
    some_variables, variables_of_launchers, a_limit, closed_descriptors, a_full_output,
    an_output_nobody_reads, a_deleted_folder, a_umask, a_small_disk, a_signal, nohup,
    ignored_signals, one_cpu,
)  # fmt: skip
