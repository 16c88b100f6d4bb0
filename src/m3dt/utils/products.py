"""Whether MKL's products have the mode that this package asks for."""

import ctypes
import functools
import os
import warnings
from pathlib import Path

_ASKED = "AUTO,STRICT"  # set by `m3dt` as it is imported
_MODE = 0x10002  # of `mkl.h`: MKL_CBWR_AUTO and MKL_CBWR_STRICT
_ALL = -1


@functools.cache
def warn_of_other_products() -> None:
    """Warn, once, if MKL computed before `m3dt` was imported and so kept another mode.

    The last bits of a row then depend on its place in the batch, and scores with them. Wherever
    the user sets MKL_CBWR, or torch comes without MKL, there is nothing to say.
    """
    mode = _mode()
    if os.environ.get("MKL_CBWR") == _ASKED and mode not in (None, _MODE):
        warnings.warn(
            "torch computed before m3dt was imported, so MKL ignores MKL_CBWR: weights and scores "
            "can differ from those of other processes. Import m3dt first, or set "
            f"MKL_CBWR={_ASKED} before Python starts.",
            stacklevel=3,
        )


def _mode() -> int | None:
    """Return MKL's mode of reproducibility, or None without MKL."""
    import torch  # imported here: simulation workers never load it

    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return int(ctypes.CDLL(str(library)).mkl_serv_cbwr_get(_ALL))
    except (OSError, AttributeError):
        return None
