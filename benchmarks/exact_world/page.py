"""The page of the study; every number in it is in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from customcrafter_core.diffusion.recommendations import PRESETS
from customcrafter_core.diffusion.strength import Constant

from .cases import BASE, ONE_OF_EACH, SHIFTS, VARIATIONS, VARIED, name_of
from .study import GUIDED, LAW, PROMPT_ONLY, WIDELY

Trial = Mapping[str, Any]
Results = Mapping[str, Any]
LIMITS = """## How it is made, and its limits

- **World**: clips of 8 frames of 16x16 latent pixels in three channels. An object of 7x7 pixels stands still or moves 7
  pixels in 8 frames, from any of 9 places. Its look is a set of parts, each lighter or darker by a contrast (± the number in
  the table), in any combination: 3 parts that are the colour of the whole object, up to 37 that are its single pixels.
- **Base**: moves as asked, any place, any look. **Subject**: its look (each part with 98 %), and still with 98 %, for it was
  learned from stills. Each one's prediction is the exact mean of the clean clip given the noisy one, over all places and
  looks.
- **Strength** is the mix of both predictions, `(1 - λ) · base + λ · subject`: what a LoRA does to first order. One row of the
  table lets it mix the logarithms of the priors instead.
- **Sampling**: VideoCrafter2's schedule and DDIM as in this project, eta 0 if not said otherwise, 50 steps, the same noise
  for all ways; flow matching by Euler steps.
- **Videos**: 16 looks (of one colour there are 8) in four directions. A finished video counts as the clean clip nearest to it.
- **Not in it**: a learned network. One may decide motion later than the noise would allow, and a LoRA that was shown equal
  frames at every noise level may freeze a motion that is already visible; then dynamic weights win less than here, and a
  training that leaves low noise to the look does more. Nor does it say what the ratio of a real subject is: VideoCrafter2's
  latents are larger, so its motion is decided earlier than here, and K with it."""


def page(found: Results) -> str:
    """``exact_world.md``."""
    trials, onsets = found["trials"], found["onset"]
    parts = [
        verdict(trials), law_lines(trials), front_lines(), strength_lines(trials), noise_lines(trials),
        variation_lines(trials), onset_lines(onsets), LIMITS,
    ]  # fmt: skip
    return "\n".join(line for part in parts for line in ([part] if isinstance(part, str) else part)) + "\n"


def of(trials: Sequence[Trial], group: str, identity: object = None) -> list[Trial]:
    """Those of a group, in the order of their ratio, or the one with an identity."""
    part = [t for t in trials if t["group"] == group and identity in (None, t["identity"])]
    return sorted(part, key=lambda t: t["ratio"])


def the(trials: Sequence[Trial], group: str, identity: object) -> Trial:
    """One trial."""
    return of(trials, group, str(identity))[0]


def interval(gain: Sequence[float]) -> str:
    """A mean with its interval."""
    mean, low, high = gain
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (x, y)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def verdict(trials: Sequence[Trial]) -> list[str]:
    """The answer first."""
    law = of(trials, LAW)
    above = [t for t in law if t["chosen"]["gain"][1] > 0]
    ratios, gains = [t["ratio"] for t in law], [t["chosen"]["gain"][0] for t in law]
    base, colour = the(trials, LAW, BASE.identity), the(trials, LAW, VARIED[0])
    paper = [t["paper"]["gain"][0] for t in law]
    both = [t["chosen"]["identity_gain"][0] for t in of(trials, GUIDED)]
    logs, symmetric = (
        the(trials, f"strength mixes log priors{said}", BASE.identity) for said in ("", ", base disobeys 2 %")
    )
    return [
        "# When dynamic weights win, exactly",
        "",
        "**Where the look is decided later than the motion: where it consists of parts that have little energy beside the "
        f"motion.** Of {len(law)} looks, {len(above)} gain motion over every constant strength that is as much alike (95 % "
        "intervals above 0, no guidance). The gain follows *energy of the motion ÷ energy of one part of the look* (rank "
        f"correlation {rank_correlation(ratios, gains):.2f}): {interval(colour['chosen']['gain'])} for one bold colour "
        f"(ratio {colour['ratio']:.0f}), {interval(base['chosen']['gain'])} for 22 faint marks (ratio "
        f"{base['ratio']:.0f}), where {base['chosen']['way']} moves {base['chosen']['motion']:.0%} of the videos and "
        f"constants as much alike {base['chosen']['bar']:.0%}.",
        "",
        f"**λs 0 and λl 1 are best.** The paper's 0.4 → 0.8 with K 5 gains {min(paper):+.2f} to {max(paper):+.2f}: at 0.4 "
        "part of the freeze is there already, and 0.8 is less alike than 1.",
        "",
        "**With strong guidance the right constant can do it too**: 0.8 to 0.95 if the LoRA acts on both predictions (dynamic "
        f"weights then add {min(both):+.2f} to {max(both):+.2f} of likeness), 0.2 to 0.4 if it acts on the prompt's only. "
        "Which of the two a LoRA does is not known beforehand; 0 → 1 with K 16 keeps motion and likeness in both, none of the "
        "constants below does ([presets](#what-to-begin-with)).",
        "",
        "**All of this takes strength to mix predictions**, which holds to first order. If it mixed the logarithms of what base "
        f"and subject believe, the gain for the marks would be {interval(logs['chosen']['gain'])} with a base that is sure of "
        f"the motion, {interval(symmetric['chosen']['gain'])} with one as sure as the subject is of the stillness.",
        "",
        "![The law](exact_world_law.png)",
        "",
        "Written by `python -m benchmarks.exact_world`; do not edit. There is no network: the world is finite, so what a perfect "
        "denoiser would predict can be computed. That shows what the method can do and why; it is no measurement of "
        "VideoCrafter2. [How it is made, and its limits](#how-it-is-made-and-its-limits).",
        "",
        *begin_lines(trials),
    ]


def law_lines(trials: Sequence[Trial]) -> list[str]:
    """The law by identity, without guidance and with it."""
    lines = [
        "## The law",
        "",
        "*motion*: share of the videos that move as asked. *likeness*: 1 is all of the look, 0 chance. *gain*: motion "
        "beyond the best constant, or mix of two, with at least this likeness; then likeness beyond the best with at least "
        "this motion. *ratio*: energy of the motion ÷ energy of one part. The weights were chosen on half of the looks; "
        "all numbers are of the other half, with 95 % intervals over looks and videos.",
        "",
        "| look | parts | ratio | chosen | motion, likeness | gain in motion | gain in likeness | 0.4 → 0.8, K 5: gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_law_row(t, with_parts=True) for t in of(trials, LAW)]
    lines += [
        "",
        "### With guidance 12, as VideoCrafter2 samples",
        "",
        "A LoRA also changes the prediction for the negative prompt; how much depends on its training. The two extremes:",
        "",
    ]
    titles = {
        GUIDED: "As much as that for the prompt. Guidance then strengthens the motion that is left of the base, so constants up "
        "to 0.9 move, and what dynamic weights add is likeness:",
        PROMPT_ONLY: "Not at all. Guidance then strengthens freeze and look alike: constants of 0.2 to 0.4 have both motion and "
        "look, higher ones freeze for good, and K has to be as late as without guidance:",
    }
    for group, title in titles.items():
        lines += [title, "", "| look | ratio | chosen | motion, likeness | gain in motion | gain in likeness | "
                  "0.4 → 0.8, K 5: gain |", "|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [_law_row(t) for t in of(trials, group)] + [""]
    return lines


def _law_row(t: Trial, with_parts: bool = False) -> str:
    chosen = t["chosen"]
    cells = [t["identity"], *([str(t["parts"])] if with_parts else []), f"{t['ratio']:.3g}", chosen["way"]]
    cells += [f"{chosen['motion']:.2f}, {chosen['identity']:.2f}", interval(chosen["gain"])]
    cells += [interval(chosen["identity_gain"]), interval(t["paper"]["gain"])]
    return "| " + " | ".join(cells) + " |"


def front_lines() -> list[str]:
    """The picture of the fronts."""
    return [
        "## Motion against likeness",
        "",
        "Up and to the right is better. Left a look that is decided together with the motion, right one that is decided "
        "later.",
        "",
        "![Motion against likeness for constants and dynamic weights](exact_world_fronts.png)",
        "",
    ]


def strength_lines(trials: Sequence[Trial]) -> list[str]:
    """Where λs and λl are best."""
    lines = ["## Where λs and λl are best", ""]
    for t, title in zip(of(trials, WIDELY), ("no guidance", "guidance 12"), strict=True):
        pairs: dict[tuple[float, float], tuple[float, ...]] = {}
        for name, (motion, identity) in t["ways"].items():
            if "→" in name:
                strengths, k = name.split(", K ")
                pair = tuple(float(value) for value in strengths.split(" → "))
                pairs[pair] = max(pairs.get(pair, (-9.0,)), (motion + identity, motion, identity, int(k)))
        ends = sorted({late for _, late in pairs})
        lines += [f"{t['identity']}, {title}: motion, likeness at the K with the largest sum of the two.", ""]
        lines += ["| λs | " + " | ".join(f"λl {late:g}" for late in ends) + " |", "|---" * (1 + len(ends)) + "|"]
        for start in sorted({early for early, _ in pairs}):
            cells = [pairs.get((start, late)) for late in ends]
            shown = ["" if c is None else f"{c[1]:.2f}, {c[2]:.2f} (K {c[3]})" for c in cells]
            lines.append(f"| {start:g} | " + " | ".join(shown) + " |")
        lines.append("")
    return lines


def noise_lines(trials: Sequence[Trial]) -> list[str]:
    """Where K is best, as a noise level, for VideoCrafter2 and for flow matching."""
    lines = [
        "## K is a noise level",
        "",
        "*sigma* is noise ÷ (signal + noise), the sigma of flow matching. In brackets the Ks whose gain is within 0.05 of "
        f"the best; {BASE.identity}, 0 → 1.",
        "",
        "![Gain by noise level and by share of the steps](exact_world_noise.png)",
        "",
        "| schedule | guidance | best K of 50 | percent of the steps | sigma there |",
        "|---|---|---|---|---|",
    ]
    rows = [("VideoCrafter2", "none", LAW), ("VideoCrafter2", "3", "guidance 3"), ("VideoCrafter2", "12", GUIDED)]
    for guidance, said in (("none", ""), ("5", ", guidance 5")):
        rows += [(f"flow matching, shift {s}", guidance, f"flow matching, shift {s}{said}") for s in SHIFTS]
    for schedule, guidance, group in rows:
        best = the(trials, group, BASE.identity)["best_k"]
        cells = [_range(best.get("k"), "d"), _range(best.get("percent"), ".0f"), _range(best.get("sigma"), ".2f")]
        lines.append(f"| {schedule} | {guidance} | " + " | ".join(cells) + " |")
    guided = [the(trials, f"flow matching, shift {s}, guidance 5", BASE.identity)["best_k"] for s in SHIFTS]
    sigmas = [sigma for best in guided for sigma in best["sigma"]]
    lines += [
        "",
        "For a model of flow matching, such as Wan, this means: change the strength at a sigma, not at a step. With guidance 5 "
        f"that is {max(sigmas):.2f} to {min(sigmas):.2f} at every shift; the share of the steps that lie above it grows with "
        "the shift.",
    ]
    return [*lines, "", *rule_lines(trials)]


def _range(values: Sequence[float] | None, form: str) -> str:
    if values is None:
        return "none gains"
    first, best, last = (format(value, form) for value in values)
    return f"{best} ({first} to {last})"


def rule_lines(trials: Sequence[Trial]) -> list[str]:
    """Where the best K lies in terms of how visible motion is."""
    unguided = [t for t in trials if t["cfg"] == 1 and "k" in t["best_k"] and t["group"] != WIDELY]
    unguided = [t for t in unguided if not t["tempered"] and t["said"] == 0.5 and t["eta"] == 0]
    visible = [t["best_k"]["visibility"][1] for t in unguided]
    low, middle, high = np.quantile(visible, [0.1, 0.5, 0.9])
    return [
        "How visible the motion is, √(its energy) · signal ÷ noise, at the best K of the "
        f"{len(unguided)} cases without guidance in which some K gains, over all schedules, frames, sizes and looks: "
        f"{middle:.1f} in the middle, {low:.1f} to {high:.1f} in eight of ten. So K is early for a clip with much motion "
        "or large latents, late for one with little; Motion Onset measures it.",
        "",
    ]


def variation_lines(trials: Sequence[Trial]) -> list[str]:
    """What changes the law and what does not."""
    bold, faint = VARIED
    lines = [
        "## What changes it and what does not",
        "",
        f"| | {bold}: gain | {faint}: chosen | motion, likeness | gain in motion | gain in likeness | 0.4 → 0.8, K 10 % of the steps | best K |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in (LAW, *VARIATIONS):
        t, other = the(trials, name, faint), the(trials, name, bold)
        chosen = t["chosen"]
        cells = [interval(other["chosen"]["gain"]), chosen["way"], f"{chosen['motion']:.2f}, {chosen['identity']:.2f}"]
        cells += [interval(chosen["gain"]), interval(chosen["identity_gain"]), interval(t["paper"]["gain"])]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {_range(t['best_k'].get('k'), 'd')} |")
    return [*lines, ""]


def onset_lines(onsets: Sequence[Trial]) -> list[str]:
    """Does Motion Onset suggest a good K here?"""
    judged = [o for o in onsets if not o["tuned"]]
    lost = {rule: np.mean([o[rule]["lost"] for o in judged]) for rule in ("knee", "half")}
    worst = {rule: max(o[rule]["lost"] for o in judged) for rule in ("knee", "half")}
    lines = [
        "## Does Motion Onset suggest a good K?",
        "",
        "Measured on the exact base as on a network: what the latent holds without the prompt, after each step. Then each "
        "video is sampled with the subject, 0 → 1, from the same noise, at the K that a rule gives for it. *best*: the one "
        "K for all videos with the largest sum of motion and likeness; in brackets those within 0.05 of it.",
        "",
        f"Motion Onset takes the knee of the curve, where a step fixes less than its even share of the motion. With guidance it "
        f"is right; without, it is too early. If a step had to fix only half of its share, which was chosen on the first cases of "
        f"the table and judged on the {len(judged)} below them, the sum of motion and likeness would be {lost['half']:.2f} under "
        f"the best on average, {worst['half']:.2f} at most (the knee: {lost['knee']:.2f}, {worst['knee']:.2f}). But on the demo's "
        "network, whose curve rises slowly to its end, half a share suggests K 34 to 48 of 50 for 7 of 8 prompts, where the knee is "
        "within the range of good ones for most ([numbers](motion_onset.md)). So the knee stays.",
        "",
        "| | steps | best K | motion, likeness | the knee's K, middle | its motion, likeness | K by half the share, middle | its motion, likeness |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for o in onsets:
        best, first, last = o["best"], *o["best"]["range"]
        cells = [str(o["steps"]), f"{best['k']} ({first} to {last})", f"{best['motion']:.2f}, {best['identity']:.2f}"]
        for rule in ("knee", "half"):
            r = o[rule]
            cells += [f"{r['median']:g} ({r['low']} to {r['high']})", f"{r['motion']:.2f}, {r['identity']:.2f}"]
        name = o["case"] + (" (chosen on)" if o["tuned"] else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def begin_lines(trials: Sequence[Trial]) -> list[str]:
    """What to begin with, by subject and by what is wanted."""
    law = of(trials, LAW)
    bold, faint, between = (
        [t for t in law if low <= t["ratio"] < high] for low, high in ((0, 4), (30, np.inf), (4, 30))
    )
    said = the(trials, "the word knows 70 % of the look", BASE.identity)
    hard = the(trials, "eps 0.0001", BASE.identity)
    base = the(trials, LAW, BASE.identity)
    lines = [
        "## What to begin with",
        "",
        "| your subject is | begin with | because |",
        "|---|---|---|",
        f"| known by many small or faint things: a face, markings, a print, a texture | λs 0, λl 1, K as *Motion Onset* "
        f"suggests | ratio 30 and more: {_gains(faint)} in motion at the same likeness |",
        f"| known by a few areas, stripes or a pattern of its own colours | the same, K a few steps earlier | ratio 4 to 30: "
        f"{_gains(between)}; from some step on each further one costs likeness |",
        f"| one bold colour or shape | a constant strength; try 0.4 to 0.8 | ratio under 4: {_gains(bold)}: look and motion "
        "are decided in the same steps |",
        f"| half known to the base by a word already | the same as above; lower constants do more | "
        f"{interval(said['chosen']['gain'])} for faint marks |",
        f"| frozen hard: it moves at no strength from 0.4 up | λs 0, never 0.4, K some steps later than suggested | a subject that takes motion to be 200 times "
        f"less likely: {interval(hard['chosen']['gain'])} with λs 0, the paper's {hard['paper']['gain'][0]:+.2f} (else "
        f"{base['chosen']['gain'][0]:+.2f}, {base['paper']['gain'][0]:+.2f}) |",
        "",
        f"Presets for VideoCrafter2's 50 steps: motion, likeness, each the mean over {len(ONE_OF_EACH)} looks, one of each "
        "kind. With guidance 12 the truth lies between the last two columns "
        "([why](#with-guidance-12-as-videocrafter2-samples)).",
        "",
        "| preset | λs → λl, K | no guidance | guidance 12, LoRA on both predictions | guidance 12, LoRA on the prompt only |",
        "|---|---|---|---|---|",
    ]
    beside = {f"constant {strength:g}": Constant(strength) for strength in (0.4, 0.6, 0.8)}
    for name, way in (PRESETS | beside).items():
        cells = []
        for group in (LAW, GUIDED, PROMPT_ONLY):
            values = [the(trials, group, identity)["ways"][name_of(way)] for identity in ONE_OF_EACH]
            cells.append("{:.2f}, {:.2f}".format(*np.mean(values, 0)))
        strengths = "" if name in beside else name_of(way)
        lines.append(f"| {name} | {strengths} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _gains(trials: Sequence[Trial]) -> str:
    gains = [t["chosen"]["gain"][0] for t in trials]
    return f"{gains[0]:+.2f}" if len(gains) == 1 else f"{min(gains):+.2f} to {max(gains):+.2f}"
