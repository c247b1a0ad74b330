"""`report.html`: what practice did to the robots, on one page without outside files."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efm_trainer.report_plots import (
    Example,
    film_strip,
    learning_curve,
    loss_curves,
    steps_curve,
)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}svg,img{max-width:100%;height:auto}
.big{font-size:1.3rem}p.note{color:#666}img{image-rendering:pixelated}
"""


def write_page(
    path: Path,
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    rounds: Sequence[Mapping[str, float]],
    examples: Sequence[Example],
    threshold: float | None,
) -> Path:
    """Write the page to `path`.

    report: the content of report.json. history: Stage-1 losses, one entry per validation. rounds:
    see `report_plots.learning_curve`. threshold: the detector's, in steps.
    """
    parts = [
        _headline(report),
        _section("Practice, round by round", learning_curve(rounds)) if rounds else "",
        _section("Fine-tuning on demonstrations", loss_curves(history)) if history else "",
        _detector(report["detector"], threshold),
        _examples(examples, threshold),
        _costs(report),
    ]
    body = "\n".join(part for part in parts if part)
    text = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>efm: a fleet that practised</title><style>{_STYLE}</style>{body}</html>\n"
    )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(pair: Sequence[float]) -> str:
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"


def _headline(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{title}<td class=n>{_percent(report[key]['success'])}"
        f"<td>{_interval(report[key]['interval'])}"
        f"<td class=n>{_percent(report[key]['autonomous_success'])}"
        f"<td class=n>{report[key]['episodes']}"
        for key, title in (("sft", "after demonstrations"), ("self_improved", "after practice"))
    )
    difference = report["paired_difference"]
    return (
        "<h1>A fleet that practised</h1>"
        f"<p class=big>{report['demo_episodes']} demonstrations, then {report['practice_episodes']}"
        f" episodes of practice by {report['robots']} robots: success "
        f"{_percent(report['sft']['success'])} &rarr; "
        f"{_percent(report['self_improved']['success'])}, "
        f"{100 * difference['mean']:+.1f} points {_interval(difference['interval'])}.</p>"
        "<table><tr><th><th>success<th>95 % interval<th>by itself<th>start states</tr>"
        f"{rows}</table>"
        "<p class=note>Success is the simulator's truth at any tick within the limit; "
        "&ldquo;by itself&rdquo; means that it was true when the robot's own detector said stop. "
        "The difference is paired over the same start states (bootstrap). "
        "The shipped backbone learnt where things are from rendered scenes of this same "
        "simulator; it saw no demonstration, action or reward.</p>"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{content}"


def _detector(figures: Mapping[str, float], threshold: float | None) -> str:
    at = f" at d &le; {threshold:.2f} steps" if threshold is not None else ""
    return _section(
        "Success detector",
        f"<p>On labelled episodes of the fine-tuned policy{at}: precision "
        f"{figures['precision']:.2f}, recall {figures['recall']:.2f}.</p>",
    )


def _examples(examples: Sequence[Example], threshold: float | None) -> str:
    blocks = []
    for example in examples:
        record = example.record
        ending = "success" if example.truth.any() else "no success"
        blocks.append(
            f"<h3>&ldquo;{html.escape(record.instruction)}&rdquo;</h3>"
            f"<p class=note>{html.escape(record.policy_version)}, {record.ticks} ticks, {ending}. "
            "Line: predicted steps to go; dashed: threshold; green: true success.</p>"
            f'<img alt="frames of the episode" src="{film_strip(example)}">'
            f"{steps_curve(example, threshold)}"
        )
    return _section("What the robots saw and expected", "".join(blocks)) if blocks else ""


def _costs(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td class=n>{seconds:.0f} s"
        for name, seconds in report["seconds_by_phase"].items()
    )
    transports = report["episodes_by_transport"]
    return _section(
        "What it cost",
        f"<table>{rows}<tr><th>in all<td class=n>{report['wall_seconds']:.0f} s</table>"
        f"<p>Human interventions: {report['human_interventions']}. Labels asked: "
        f"{report['labels_asked']}. Episodes over DDS: {transports['dds']}, in one process: "
        f"{transports['in_process']}. Seed {report['seed']}.</p>"
        f"<p class=note>Episodes: <code>{html.escape(str(report['data_dir']))}</code></p>",
    )
