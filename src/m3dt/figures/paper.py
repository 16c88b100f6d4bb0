"""Numbers that the paper states, to stand beside ours (ICML 2025, sections 3 and 5)."""

from __future__ import annotations

M3DT_RANDOM_160 = 77.89
M3DT_10 = {"m3dt-random": 89.09, "m3dt-gradient": 89.23}  # 8 experts
WITHOUT_THREE_STAGES = 71.9
WITHOUT_GROUPING = 67.34
BIG_EXPERTS = 76.53
METAWORLD_DMCONTROL = {10: 84.77, 80: 70.52, 160: 65.90}  # M3DT-Gradient
DROP_10_TO_160 = 12.3  # per cent, M3DT; about 20 without
MORE_EXPERTS = (11.2, 11.7)  # per cent
