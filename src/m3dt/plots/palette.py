"""The colours of all figures: Okabe and Ito's, which readers with any colour vision tell apart."""

from m3dt.tasks import DOMAINS

BLUE, RED, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, YELLOW, BLACK = "#56b4e9", "#e69f00", "#f0e442", "#000000"
GREY = "0.45"  # references: limits, oracles, numbers of the paper

METHOD_COLORS = {
    "promptdt": BLUE,
    "mtdt": GREEN,
    "harmodt": BLACK,
    "m3dt-random": PINK,
    "m3dt-gradient": RED,
    "m3dt-top-k": ORANGE,
    "backbone": SKY,
    "bc": YELLOW,
}
"""The colour of each method that figures compare, and of M3DT's backbone acting alone."""

_DOMAIN_COLORS = dict(zip(DOMAINS, (BLUE, RED, GREEN, PINK), strict=True))
_OTHER_COLORS = (SKY, ORANGE, YELLOW, BLACK)


def color_of(domain: str) -> str:
    """Return the color of a domain, the same in every figure."""
    place = sum(domain.encode()) % len(_OTHER_COLORS)
    return _DOMAIN_COLORS.get(domain, _OTHER_COLORS[place])
