"""The first screen of a report: a verdict for every setting, and the health of the parts, in sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.evaluation.statistics import Estimate
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.agreement import Agreement
from spar_core.reporting.numbers.cells import Rule, Setting
from spar_core.reporting.numbers.health import PARTS, Finding, State, findings, worst
from spar_core.reporting.numbers.verdict import Decision, Verdict, verdicts
from spar_core.reporting.page.console import WIDTH, digits_of, gain_text, number

# With more settings, each has one line of a table in place of a paragraph.
PARAGRAPHS = 3


@dataclass(frozen=True)
class Answer:
    """A verdict in words.

    Attributes:
        headline: what to do, one sentence.
        sentences: why, which policy, and how sure this is.
        gain: of the rule over the anchor, as text.
        policy: folder of the policy to deploy or to test; empty if there is none.
    """

    verdict: Verdict
    headline: str
    sentences: tuple[str, ...]
    gain: str
    policy: str

    def __str__(self) -> str:
        return " ".join([self.headline, *self.sentences])


@dataclass(frozen=True)
class PartHealth:
    """One line of the table of health: a part that is green, or one thing that is wrong with it."""

    part: str
    state: State
    found: str
    advice: str


def answer(
    rules: Sequence[Rule], agreements: Sequence[Agreement], settings: ReportSettings
) -> tuple[list[Answer], list[PartHealth]]:
    """Verdicts and health of a study, in words; ``agreements`` as in :func:`findings`."""
    found = findings(rules, agreements, settings.repair)
    answers = [answer_of(verdict, settings, found) for verdict in verdicts(rules, settings)]
    return answers, [*health_of(found), *_lost_seeds([answer.verdict for answer in answers])]


def answer_of(verdict: Verdict, settings: ReportSettings, found: Sequence[Finding] = ()) -> Answer:
    """A verdict in words, which the health of its setting's parts qualifies."""
    words = _Words(verdict, settings, tuple(_red(verdict.setting, found)))
    headline, why = words.answer()
    policy = verdict.policy if verdict.deploys and "data" not in words.red else ""
    label = [f"{verdict.label[:1].upper()}{verdict.label[1:].rstrip('.')}."] if verdict.label else []
    return Answer(verdict, headline, (*label, *why), gain_text(verdict.gain, words.digits), policy)


def health_of(found: Sequence[Finding]) -> list[PartHealth]:
    """A line for every part that is green, and one for every check that failed, the worst first."""
    settings = len({finding.setting for finding in found})
    lines = []
    for part in PARTS:
        ours = [finding for finding in found if finding.check.part == part]
        bad = [finding for finding in ours if finding.state is not State.GREEN]
        for check in dict.fromkeys(finding.check for finding in bad):
            failed = [finding for finding in bad if finding.check is check]
            state = worst(failed)
            first = next(finding for finding in failed if finding.state is state)
            text = first.text if settings == 1 else f"{first.text.removesuffix('.')} ({_where(failed, first)})."
            lines.append(PartHealth(part, state, text, check.advice))
        if ours and not bad:
            count = len({finding.check for finding in ours})
            lines.append(PartHealth(part, State.GREEN, f"{count} check{'s pass' if count > 1 else ' passes'}.", ""))
    return lines


def console_answer(answers: Sequence[Answer], health: Sequence[PartHealth]) -> str:
    """Verdicts and health as plain text: a paragraph for every verdict, and one for everything that is not green."""
    paragraphs = []
    for answer in answers:
        where = ", ".join(_named(answer.verdict.setting))
        text = answer.headline if len(answers) > PARAGRAPHS else " ".join([answer.headline, *answer.sentences])
        paragraphs += textwrap.wrap(f"{where}: {text}".replace("`", ""), WIDTH, break_on_hyphens=False)
    states: dict[str, State] = {}
    for line in health:
        states[line.part] = max(states.get(line.part, State.GREEN), line.state, key=list(State).index)
    if states:
        paragraphs += textwrap.wrap(f"Health: {', '.join(f'{part} {state}' for part, state in states.items())}.", WIDTH)
    for line in health:
        if line.state is not State.GREEN:
            text = f"{line.state}: {line.found} {line.advice}".replace("`", "")
            paragraphs += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(paragraphs)


@dataclass(frozen=True)
class _Words:
    """The sentences of one verdict; ``red`` names the parts of its setting that are in bad health."""

    verdict: Verdict
    settings: ReportSettings
    red: tuple[str, ...]

    @property
    def digits(self) -> int:
        return digits_of(max(abs(self.verdict.value), abs(self.verdict.anchor)))

    def answer(self) -> tuple[str, list[str]]:
        """The headline, and the sentences below it."""
        if "data" in self.red:
            return "No verdict: the data are red (see health). Correct them first, and run the study again.", []
        return {
            Decision.DEPLOY: self._deploy,
            Decision.REPAIR: self._repair,
            Decision.KEEP: self._keep,
            Decision.TRY: self._try,
            Decision.OPEN: self._open,
        }[self.verdict.decision]()

    def _deploy(self) -> tuple[str, list[str]]:
        why = [self._returns(), *self._split(), *self._tied(), *self._measured(), self._policy(), self._confidence()]
        return f"Deploy `{self.verdict.rule}`.", why

    def _repair(self) -> tuple[str, list[str]]:
        why = [self._returns(), "No rule with a critic is shown to return more.", *self._no_fair_trial()]
        return (
            f"Deploy `{self.verdict.rule}`, which clones the data again and needs no critic.",
            [*why, self._policy(), self._confidence()],
        )

    def _keep(self) -> tuple[str, list[str]]:
        worse = [f"Shown to return less than it: {_codes(self.verdict.worse)}."] if self.verdict.worse else []
        headline = "Keep your policy for now." if self._no_fair_trial() else "Keep your policy."
        return headline, [self._closest(), *worse, *self._no_fair_trial(), self._confidence()]

    def _try(self) -> tuple[str, list[str]]:
        why = [
            "Nothing was rolled out. Fitted-Q evaluation on logged data values its seeds at "
            f"{number(self.verdict.value, self.digits)}, and those of `{self.settings.baseline}` at "
            f"{number(self.verdict.anchor, self.digits)}: a gain of {self._gain(self.verdict.gain)}.",
            *self._split(),
            *self._tied(),
            "The intervals cover the spread of the seeds alone, and not the error of the estimate, which may prefer "
            "the worse policy.",
        ]
        return f"Test `{self.verdict.rule}` against your policy before it replaces it.", [*why, self._policy()]

    def _open(self) -> tuple[str, list[str]]:
        headline = "Not decided; keep your policy meanwhile."
        if self.verdict.rule is None:
            return headline, [f"The study has no rule besides `{self.settings.baseline}` for this anchor and critic."]
        more = {
            "episodes": "Evaluate more episodes (`evaluation.episodes`) first, then add seed groups (`study.seeds`).",
            "estimates": "Add seeds (`study.seeds`).",
        }.get(self.verdict.unit, "Add seed groups (`study.seeds`).")
        return headline, [self._closest(), *self._no_fair_trial(), more, self._confidence()]

    def _returns(self) -> str:
        count = "" if self.verdict.unit == "episodes" else f"{self.verdict.units} "
        if self.verdict.members > 1:
            whose = f"{count}committee{'s' if count else ''} of {self.verdict.members} seeds"
        else:
            whose = f"{count}policies" if count else "policy"
        verb, theirs = ("return", "those") if count else ("returns", "that")
        return (
            f"Its {whose} {verb} {number(self.verdict.value, self.digits)}, and {theirs} of the anchor "
            f"{number(self.verdict.anchor, self.digits)}: a gain of {self._gain(self.verdict.gain)}."
        )

    def _split(self) -> list[str]:
        repair, part = self.verdict.repair, self.verdict.improvement
        if repair is None or part is None:
            return []
        text = f"Cloning again without a critic (`{self.settings.repair}`) changes the value by {self._gain(repair)}"
        shown = "" if repair.direction else ", so no change is shown"
        brings = "brings" if part.direction > 0 else "is not shown to bring anything"
        return [f"{text}{shown}; the critic {brings} on top of that: {self._gain(part)}."]

    def _tied(self) -> list[str]:
        tied = self.verdict.tied
        return [f"Not shown to do worse than `{self.verdict.rule}`: {_codes(tied)}."] if tied else []

    def _measured(self) -> list[str]:
        if not self.red:
            return []
        parts = " and ".join(self.red)
        return [f"The gain was measured, but red health ({parts}) makes it doubtful in states unlike those rolled out."]

    def _no_fair_trial(self) -> list[str]:
        if "critic" not in self.red:
            return []
        return ["The critic is red (see health), so the rules that use it had no fair trial."]

    def _closest(self) -> str:
        gain = self.verdict.gain
        value = number(self.verdict.anchor, self.digits)
        text = f"No rule is shown to beat the anchor, whose value is {value}: `{self.verdict.rule}`, the best of them,"
        if self.verdict.unit == "estimates":
            text = f"Nothing was rolled out, so that values are estimates from logged data. {text}"
        text += f" differs by {self._gain(gain)}"
        if gain is None or gain.low is None or gain.high is None:
            return f"{text}."
        if self.verdict.decision is Decision.OPEN and gain.low < 0 < gain.high:
            loss, most = number(-gain.low, self.digits), number(gain.high, self.digits)
            return f"{text}, so anything from a loss of {loss} to a gain of {most} is possible."
        return f"{text}."

    def _policy(self) -> str:
        several = self.verdict.members > 1
        return f"Load {'the whole folder' if several else 'the folder'} `{self.verdict.policy}`."

    def _confidence(self) -> str:
        verdict = self.verdict
        if verdict.gain is None or verdict.gain.low is None:
            return "Nothing has an interval."
        level, rules = f"{100 * self.settings.confidence:g}%", f"all {verdict.rules} rules"
        together = f" for {rules} together" if verdict.rules > 1 else ""
        if verdict.unit == "episodes":
            return (
                f"Intervals hold at {level}{together}, over {verdict.units} episodes of exactly these policies; a new "
                "training run may differ, which more seed groups show."
            )
        unit = "seeds" if verdict.unit == "estimates" else verdict.unit
        return f"Intervals hold at {level}{together}, over {verdict.units} {unit}."

    def _gain(self, gain: Estimate | None) -> str:
        return gain_text(gain, self.digits)


def _red(setting: Setting, found: Sequence[Finding]) -> list[str]:
    bad = {finding.check.part for finding in found if finding.setting == setting and finding.state is State.RED}
    return [part for part in PARTS if part in bad]


def _lost_seeds(found: Sequence[Verdict]) -> list[PartHealth]:
    """A line for each policy to deploy of which single seeds end far below the anchor."""
    lines = []
    for verdict in found:
        if verdict.decision in (Decision.DEPLOY, Decision.REPAIR) and verdict.lost:
            digits = digits_of(abs(verdict.anchor))
            seeds = ", ".join(f"seed {seed} returns {number(value, digits)}" for seed, value in verdict.lost.items())
            text = f"Alone, {seeds}, and the anchor {number(verdict.anchor, digits)} (`{verdict.policy}`)."
            advice = "Load the whole folder: a seed alone may fall." if verdict.members > 1 else "Train committees."
            lines.append(PartHealth("single seeds", State.AMBER, text, advice))
    return lines


def _where(failed: Sequence[Finding], first: Finding) -> str:
    name = "/".join(first.setting)
    return f"{name} and {len(failed) - 1} more" if len(failed) > 1 else name


def _named(setting: Setting) -> tuple[str, str, str]:
    return setting[0], f"anchor {setting[1]}", f"critic {setting[2]}"


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
