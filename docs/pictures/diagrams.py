"""Draw the diagrams of `docs/architecture.md`, which a Git host and the site show alike.

python -m docs.pictures.diagrams
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.charts import WIDTH, head, text

FOLDER: Final = Path(__file__).parent
_STYLE: Final = (
    ".edge{fill:none;stroke:#57606a}.answer{stroke-dasharray:5 4}.life{stroke:#d0d7de}"
    ".box{fill:#ddf4ff;stroke:#0b62c4}.note{fill:#fff8c5;stroke:#bf8700}#head,.dot{fill:#57606a}"
    ".halo{stroke:#fff;stroke-width:4px;paint-order:stroke}@media (prefers-color-scheme:dark)"
    "{.edge{stroke:#9198a1}.life{stroke:#3d444d}.box{fill:#10243e;stroke:#6fb1ff}"
    ".note{fill:#332a11;stroke:#d29922}#head,.dot{fill:#9198a1}.halo{stroke:#0d1117}}"
)
_HEAD: Final = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path id="head" d="M0 0L8 4L0 8Z"/></marker>'
)
#: Pixels between two lines of text, and for a letter of it at most, on average.
_LINE, _LETTER = 16, 6.6


@dataclass(frozen=True)
class Step:
    """A message from one participant to another, or to itself."""

    source: str
    target: str
    words: str
    answer: bool = False


@dataclass(frozen=True)
class Note:
    """What a participant does without a message."""

    over: str
    words: str


@dataclass(frozen=True)
class Arrow:
    """A change of state: its way in pixels, and where the middle of its label's last line is."""

    way: str
    label: tuple[float, float]
    words: tuple[str, ...]


PARTICIPANTS: Final = (
    "Client",
    "API",
    "Redis",
    "Object store",
    "Model worker",
    "I/O worker",
    "Receiver",
)
#: How one picture is processed.
STEPS: Final[Sequence[Step | Note]] = (
    Step("Client", "API", "POST /api/v1/remove-bg"),
    Step("API", "Redis", "API key, token bucket, idempotency key"),
    Step("API", "API", "read the header: format, size, pixels"),
    Step("API", "Redis", "result cache: is the result known?"),
    Step("API", "Redis", "quotas (Lua): charge bytes and a pending job, or refuse"),
    Step("API", "Redis", "worker registry: which queue?"),
    Step("API", "Object store", "store the original, then its manifest"),
    Step("API", "Redis", "create (Lua): record, indexes, deadline, dispatch number"),
    Step("API", "Redis", "Celery message rmbg.remove to the queue"),
    Step("API", "Client", "202 with the task id", answer=True),
    Step("Redis", "Model worker", "parent takes the message, child runs rmbg.remove"),
    Step(
        "Model worker",
        "Redis",
        "claim (Lua): the job whose owner's turn it is, lease, attempt counted",
    ),
    Step("Model worker", "Object store", "fetch the original"),
    Note("Model worker", "decode, preprocess, inference, compose, encode"),
    Step("Model worker", "Redis", "every 3 s: renew the lease"),
    Step("Model worker", "Object store", "store the result under a key with the lease token"),
    Step("Model worker", "Redis", "finish (Lua): result, index, counts, batch, delivery record"),
    Step("Redis", "API", "published: the task has ended (long polling, events)", answer=True),
    Step("I/O worker", "Redis", "dispatcher: dispatch due deliveries (Lua)"),
    Step("I/O worker", "Redis", "Celery message rmbg.deliver to the queue webhooks"),
    Step("Redis", "I/O worker", "a thread runs rmbg.deliver"),
    Step("I/O worker", "Redis", "claim the delivery (Lua)"),
    Note("I/O worker", "check the address, render and sign the payload"),
    Step("I/O worker", "Receiver", "POST"),
    Step("Receiver", "I/O worker", "2xx", answer=True),
    Step("I/O worker", "Redis", "record the attempt (Lua): delivered"),
    Step("Client", "API", "GET …/result"),
    Step("API", "Client", "302 to a presigned URL", answer=True),
)
#: States of a job, by the middle of their boxes.
STATES: Final[Mapping[str, tuple[float, float]]] = {
    "queued": (150, 170),
    "processing": (630, 170),
    "succeeded": (390, 55),
    "failed": (390, 280),
    "canceled": (390, 370),
}
#: The labels are commands of tasks/lua/jobs.lua.
ARROWS: Final = (
    Arrow("M34 170H88", (60, 162), ("create",)),
    Arrow("M28 164V45H328", (180, 37), ("create_finished",)),
    Arrow("M170 150V65H328", (250, 82), ("complete_duplicate",)),
    Arrow("M210 162H568", (390, 154), ("claim",)),
    Arrow("M570 180H212", (390, 197), ("release, crash",)),
    Arrow("M630 150V55H452", (540, 47), ("finish",)),
    Arrow("M180 190V270H328", (255, 262), ("fail_overdue, expire,", "complete_duplicate")),
    Arrow("M330 290H150V192", (255, 306), ("requeue",)),
    Arrow("M120 190V360H328", (255, 352), ("cancel",)),
    Arrow("M330 380H96V192", (255, 396), ("requeue",)),
    Arrow(
        "M600 190V280H452",
        (523, 272),
        ("finish, expire,", "crash (the 3rd),", "release (the 20th)"),
    ),
    Arrow("M660 190V370H452", (523, 362), ("cancel",)),
)


def sequence_diagram() -> str:
    """Return how one picture is processed, from top to bottom."""
    gap = WIDTH / len(PARTICIPANTS)
    places = {name: gap * (number + 0.5) for number, name in enumerate(PARTICIPANTS)}
    parts: list[str] = []
    down = 44.0
    for step in STEPS:
        drawn = (
            _message(step, places, down) if isinstance(step, Step) else _note(step, places, down)
        )
        down, svg = drawn
        parts += svg
    height = down + 46
    frame = [head("How one picture is processed", WIDTH, height, _STYLE), _HEAD]
    for name, across in places.items():
        frame.append(f'<path class="life" d="M{across:.0f} 34V{height - 34:.0f}"/>')
        frame += _box(name, across, 22, gap - 8, 26)
        frame += _box(name, across, height - 22, gap - 8, 26)
    return "\n".join([*frame, *parts, "</svg>", ""])


def _message(step: Step, places: Mapping[str, float], down: float) -> tuple[float, Iterator[str]]:
    """Return where a message ends, and its words above its arrow."""
    start, end = places[step.source], places[step.target]
    lines = textwrap.wrap(step.words, max(38, int(abs(start - end) / _LETTER)))
    widest = max(len(line) for line in lines) * _LETTER / 2
    middle = min(max((start + end) / 2, widest + 6), WIDTH - widest - 6)
    at = down + _LINE * len(lines)
    way, anchor = f"M{start:.0f} {at:.0f}H{end:.0f}", "middle"
    if start == end:
        way = f"M{start:.0f} {at - 12:.0f}h24v12h-24"
        middle, anchor = start + 32, "start"
    kind = "edge answer" if step.answer else "edge"

    def drawn() -> Iterator[str]:
        yield f'<path class="{kind}" marker-end="url(#arrow)" d="{way}"/>'
        for number, line in enumerate(lines, start=1):
            yield text(middle, down + _LINE * number - 6, line, anchor, "halo")

    return at + 8, drawn()


def _note(note: Note, places: Mapping[str, float], down: float) -> tuple[float, Iterator[str]]:
    """Return where a note ends, and its box."""
    lines = textwrap.wrap(note.words, 26)
    height = _LINE * len(lines) + 8

    def drawn() -> Iterator[str]:
        middle, wide = places[note.over], 26 * _LETTER
        yield (
            f'<rect class="note" x="{middle - wide / 2:.0f}" y="{down + 4:.0f}" '
            f'width="{wide:.0f}" height="{height}" rx="3"/>'
        )
        for number, line in enumerate(lines, start=1):
            yield text(middle, down + _LINE * number + 4, line, "middle")

    return down + height + 8, drawn()


def state_diagram() -> str:
    """Return the states of a job, and what leads from one to another."""
    parts = [head("The states of a job", WIDTH, 410, _STYLE), _HEAD]
    parts.append('<circle class="dot" cx="28" cy="170" r="6"/>')
    for arrow in ARROWS:
        parts.append(f'<path class="edge" marker-end="url(#arrow)" d="{arrow.way}"/>')
        across, down = arrow.label
        for number, line in enumerate(reversed(arrow.words)):
            parts.append(text(across, down - _LINE * number, line, "middle"))
    for name, (across, down) in STATES.items():
        parts += _box(name, across, down, 120, 40)
    return "\n".join([*parts, "</svg>", ""])


def _box(name: str, across: float, down: float, wide: float, high: float) -> Iterator[str]:
    yield (
        f'<rect class="box" x="{across - wide / 2:.0f}" y="{down - high / 2:.0f}" '
        f'width="{wide:.0f}" height="{high:.0f}" rx="4"/>'
    )
    yield text(across, down + 4, name, "middle")


DIAGRAMS: Final = {"request.svg": sequence_diagram, "job-states.svg": state_diagram}

if __name__ == "__main__":
    for _name, _draw in DIAGRAMS.items():
        (FOLDER / _name).write_text(_draw())
