"""Claims about the baselines: behaviour cloning, and HarmoDT's masks and batches."""

from m3dt.study import queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare
from m3dt.study.estimates import Scores
from m3dt.study.paper import CLONING
from m3dt.study.study_results import Results

_PART = "masks"  # studies with this part train HarmoDT on the batches of the others


def baseline_claims(results: Results) -> list[Claim]:
    """Return the claims about what the baselines make of the same data, where a study has them."""
    cloned = any(row["method"] in CLONING for row in results.rows)
    masked = any(row["part"] == _PART for row in results.rows)
    return [*(_cloning(results) if cloned else []), *(_harmodt(results) if masked else [])]


def _cloning(results: Results) -> list[Claim]:
    bc, best = ((title, _scores(results, method)) for method, title in CLONING.items())
    return [
        compare("cloning", "Prompt-DT beats BC, which is the same without returns", NOT_IN_PAPER,
                ("Prompt-DT", queries.prompt_dt_scores(results)), bc),
        compare("best tenth", "BC on the best tenth of the trajectories beats BC on all of them",
                NOT_IN_PAPER, best, bc),
    ]  # fmt: skip


def _harmodt(results: Results) -> list[Claim]:
    prompt_dt = "Prompt-DT", queries.prompt_dt_scores(results)
    few, many = _scores(results, "harmodt"), results.scores(_PART, method="harmodt")
    alone, own = (results.scores("one-task", method=method) for method in ("promptdt", "harmodt"))
    return [
        compare("harmodt", "HarmoDT beats Prompt-DT on the same mixed batches", NO_NUMBER,
                ("HarmoDT", few), prompt_dt),
        compare("exchanges", "HarmoDT with the published number of exchanges per update of its "
                "masks beats HarmoDT with the published share of its masks exchanged, 7 %",
                NOT_IN_PAPER, ("few", few), ("7 %", many)),
        compare("one task", "HarmoDT beats Prompt-DT on batches of one task", NO_NUMBER,
                ("HarmoDT", own), ("Prompt-DT", alone)),
        compare("mixed", "Prompt-DT on mixed batches beats Prompt-DT on batches of one task",
                NOT_IN_PAPER, prompt_dt, ("one task", alone)),
    ]  # fmt: skip


def _scores(results: Results, method: str) -> Scores:
    return queries.baseline_scores(results, results.medium, method)
