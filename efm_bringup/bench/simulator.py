"""The simulated world by itself."""

from __future__ import annotations

from efm_bringup.bench.result import Figure, Finding
from efm_bringup.bench.timing import Shown

MEASURED = (
    "The simulated world in one process, a scripted demonstrator pushing blocks: control steps, "
    "each with its observation; drawing start scenes and the demonstrator's thinking are in it. "
    "Value: per second by the clock on the wall; `of CPU time`: per second of the process's CPU "
    "time, which one undisturbed core would give. Baseline: the same steps without a picture; for "
    "scenes and pictures, with one sample per pixel instead of several."
)
_BASELINES = {
    "steps_64px": "steps_without_image",
    "steps_64px_one_sample": "steps_without_image",
    "steps_180x320_24_substeps": "steps_64px",
    "scenes_64px": "scenes_64px_one_sample",
}
_COUNTS = {"steps_180x320_24_substeps": 150, "demonstrations": 60}


def measure_simulator(shown: Shown | None = None) -> Finding:
    """Every figure of `efm_sim.bench`."""
    from efm_sim.bench import measure_all

    found = measure_all()
    figures = []
    for name in (n for n in found if f"{n}_cpu" in found):
        count = _COUNTS.get(name, 500 if name.startswith("scenes") else 600)
        for suffix, words in (("", ""), ("_cpu", " of CPU time")):
            against = _BASELINES.get(name)
            figures.append(
                Figure(
                    name=f"{name.replace('_', ' ')}{words}",
                    unit="1/s",
                    value=found[name + suffix],
                    count=count,
                    baseline=against.replace("_", " ") if against else "",
                    baseline_value=found[against + suffix] if against else None,
                )
            )
    success = Figure(
        name="demonstration success", unit="%", value=100 * found["demonstration_success"],
        count=_COUNTS["demonstrations"],
    )  # fmt: skip
    if shown is not None:
        shown(1, 1)
    return Finding(measured=MEASURED, figures=(*figures, success))
