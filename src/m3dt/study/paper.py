"""Numbers of the paper that ours are compared with (ICML 2025, sections 3 and 5)."""

from __future__ import annotations

SCORES = {  # table 1, by method and number of tasks; 8 experts at 10
    "m3dt-random": {10: 89.09, 160: 77.89},
    "m3dt-gradient": {10: 89.23},
}
GAINS = {  # in percent of the best baseline's score
    "m3dt-random": {10: 0.1, 80: 4.3, 160: 5.4},
    "m3dt-gradient": {80: 6.6, 160: 7.5},
}
ABLATIONS = {  # table 2, 160 tasks
    "m3dt-random": 77.89,
    "m3dt-end-to-end": 71.9,
    "m3dt-ungrouped": 67.34,
    "m3dt-big-experts": 76.53,
}
METAWORLD_DMCONTROL = {10: 84.77, 80: 70.52, 160: 65.90}  # M3DT-Gradient
DROP_10_TO_160 = 12.3  # percent of its score that M3DT loses; other methods lose about 20
MORE_EXPERTS = (11.2, 11.7)  # percent gained
