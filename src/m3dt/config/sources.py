"""Where each setting comes from, and how messages about a key begin."""

from __future__ import annotations

from collections.abc import Iterable

from m3dt.utils.errors import UserError, nearest


class Sources(dict[str, str]):
    """The file, override or preset that gave each dotted key, in the order of the layers."""

    def record(self, key: str, source: str) -> None:
        """Note that a source gives a key, whatever gave it before."""
        self.pop(key, None)
        self[key] = source

    def of(self, *keys: str) -> str:
        """Return the latest source of some keys, or of keys below or above them."""
        for given, source in reversed(self.items()):
            if any(f"{given}.".startswith(f"{key}.") for key in keys):
                return source
        above = {key.rpartition(".")[0] for key in keys} - {""}
        return self.of(*above) if above else "defaults"

    def unknown(self, key: str, known: Iterable[str]) -> UserError:
        """Return the error that refuses a key, with the nearest known one."""
        return UserError(f"{self.of(key)}: unknown key '{key}'.{nearest_key(key, known)}")


def nearest_key(key: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for a known key; the same name in another section comes first."""
    known = list(known)
    name = key.rpartition(".")[2]
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    return nearest(key, elsewhere or known)
