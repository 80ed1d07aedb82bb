"""Draw the front page's two pictures, for light and dark pages: the loop of the method, and what `make demo` shows.

python tools/draw.py           write nbs/images/loop.svg and nbs/images/demo.svg
python tools/draw.py --check   change nothing; exit 1 when a picture is not what this file draws
"""

import json, sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

NBS = Path(__file__).parents[1] / 'nbs'
IMAGES = NBS / 'images'
WIDTH, TOP, HEIGHT = 860, 30, 262
AGENTS = ('a0', 'a1', 'a2')

STYLE = """
text { font-family: -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; font-size: 15px; fill: #1f2328 }
.small { font-size: 12px; fill: #57606a }
.box { fill: #f6f8fa; stroke: #8c959f; stroke-width: 1.2 }
.arrow { fill: none; stroke: #57606a; stroke-width: 1.6 }
.tip { fill: #57606a }
circle.a0, rect.a0 { fill: #0072b2 } circle.a1, rect.a1 { fill: #d55e00 } circle.a2, rect.a2 { fill: #009e73 }
.grid { stroke: #8c959f; stroke-width: .6; opacity: .5 }
.line { fill: none; stroke-width: 2 }
.line.a0 { stroke: #0072b2 } .line.a1 { stroke: #d55e00 } .line.a2 { stroke: #009e73 }
.wrong { fill: none; stroke: #8c959f; stroke-width: 1.5; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9da7b3 }
  .box { fill: #161b22; stroke: #57606a }
  .arrow { stroke: #9da7b3 }
  .tip { fill: #9da7b3 }
  .line.a0 { stroke: #56b4e9 } .line.a1 { stroke: #e69f00 } .line.a2 { stroke: #2bc49a }
  circle.a0, rect.a0 { fill: #56b4e9 } circle.a1, rect.a1 { fill: #e69f00 } circle.a2, rect.a2 { fill: #2bc49a }
}
"""


class Stage(NamedTuple):
    "A box of the picture; lengths in pixels from the upper left corner."

    x: int
    title: str
    caption: str
    width: int = 140
    y: int = 70
    height: int = 120


STAGES = (
    Stage(10, 'Questions', 'no answers needed', width=120),
    Stage(165, 'Debate', 'answer, read, answer again', width=190),
    Stage(390, 'Vote', 'majority, ties excluded'),
    Stage(565, 'Examples', "each agent's own turns"),
    Stage(740, 'Finetune', 'one adapter each', width=110),
)


def text(x, y, words, kind='', anchor='middle'):
    name = f' class="{kind}"' if kind else ''
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{name}>{escape(words)}</text>'


def dot(x, y, agent, kept=True):
    "One turn of an agent: filled when it is kept."
    return f'<circle cx="{x}" cy="{y}" r="8" class="{agent if kept else "wrong"}"/>'


def arrow(path):
    return f'<path d="{path}" class="arrow" marker-end="url(#tip)"/>'


def box(stage):
    middle = stage.x + stage.width // 2
    return [
        f'<rect x="{stage.x}" y="{stage.y}" width="{stage.width}" height="{stage.height}" rx="8" class="box"/>',
        text(middle, stage.y - 12, stage.title),
        text(middle, stage.y + stage.height + 20, stage.caption, kind='small'),
    ]


def questions(stage):
    middle = stage.x + stage.width // 2
    return [text(middle, y, '2+3*4 = ?', kind='small') for y in (105, 135, 165)]


def debate(stage):
    "Two rounds: every agent answers, then every agent reads all answers and answers again."
    left, right = stage.x + 45, stage.x + stage.width - 45
    rows = dict(zip(AGENTS, (100, 130, 160), strict=True))
    lines = [
        f'<path d="M{left + 10} {y} L{right - 10} {z}" class="arrow" opacity=".35"/>'
        for y in rows.values()
        for z in rows.values()
    ]
    turns = [dot(x, y, agent) for x in (left, right) for agent, y in rows.items()]
    labels = [text(left, 184, 'generators', kind='small'), text(right, 184, 'critics', kind='small')]
    return [*lines, *turns, *labels]


def vote(stage):
    "Two agree, one does not."
    middle = stage.x + stage.width // 2
    return [
        *(text(middle - 22, y + 5, answer) for y, answer in ((100, '14'), (130, '14'), (160, '20'))),
        *(dot(middle + 22, y, agent, kept=agent != 'a2') for agent, y in zip(AGENTS, (100, 130, 160), strict=True)),
    ]


def examples(stage):
    "Every agent keeps what led to the vote, and only its own."
    kept = dict(a0=3, a1=2, a2=1)
    return [
        dot(stage.x + 40 + 30 * i, y, agent)
        for (agent, count), y in zip(kept.items(), (100, 130, 160), strict=True)
        for i in range(count)
    ]


def finetune(stage):
    middle = stage.x + stage.width // 2
    return [
        f'<rect x="{middle - 24}" y="{y - 9}" width="48" height="18" rx="4" class="{agent}"/>'
        for agent, y in zip(AGENTS, (100, 130, 160), strict=True)
    ]


def svg(title, lines, *, box):
    "A whole picture: `box` is (left, top, width, height) of what is seen."
    frame = ' '.join(map(str, box))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{frame}" role="img" aria-labelledby="t">',
        f'<title id="t">{escape(title)}</title>',
        f'<style>{STYLE}</style>',
        *lines,
        '</svg>',
    ]
    return '\n'.join(parts) + '\n'


def loop():
    "The method as one picture."
    between = [arrow(f'M{a.x + a.width + 6} 130 H{b.x - 10}') for a, b in zip(STAGES, STAGES[1:], strict=False)]
    first, last = STAGES[1], STAGES[-1]
    back = arrow(f'M{last.x + last.width // 2} 222 V262 H{first.x + first.width // 2} V226')
    filling = [f(stage) for f, stage in zip((questions, debate, vote, examples, finetune), STAGES, strict=True)]
    title = (
        'Questions are debated; the vote decides; every agent is finetuned on its own turns that led to the vote; the'
        ' improved society debates again.'
    )
    lines = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" class="tip"/></marker></defs>',
        *(line for stage in STAGES for line in box(stage)),
        *(line for lines in filling for line in lines),
        *between,
        back,
        text((first.x + last.x + last.width) // 2, 282, 'the improved society debates again', kind='small'),
    ]
    return svg(title, lines, box=(0, TOP, WIDTH, HEIGHT))


class Series(NamedTuple):
    "One line of the plot."

    name: str
    key: str  # as in summary.json
    colour: str  # a class of STYLE


SERIES = (
    Series('debate', 'debate', 'a0'),
    Series('majority of 3', 'majority', 'a2'),
    Series('one agent', 'single', 'a1'),
)
LEFT, RIGHT, BOTTOM, LOW, HIGH, PER_POINT = 60, 560, 300, 40, 85, 6  # pixels, pixels, pixels, %, %, pixels a point


def height(percent):
    return round(BOTTOM - (percent - LOW) * PER_POINT, 1)


def curve(series, points):
    """A line with a bar of one standard error up and down at each of its points, which are (x in pixels, accuracy in %,
    standard error in %)."""
    path = ' '.join(f'{"M" if i == 0 else "L"}{x} {height(y)}' for i, (x, y, _) in enumerate(points))
    marks = [f'<path d="{path}" class="line {series.colour}"/>']
    for x, y, error in points:
        marks.append(f'<path d="M{x} {height(y - error)} V{height(y + error)}" class="line {series.colour}"/>')
        marks.append(f'<circle cx="{x}" cy="{height(y)}" r="4" class="{series.colour}"/>')
    return marks


def spread(labels, apart=20):
    "Labels as (height, words, class), from the top, moved down where one would cover another."
    placed = []
    for y, words, kind in sorted(labels):
        if placed:
            y = max(y, placed[-1][0] + apart)
        placed.append((y, words, kind))
    return [text(RIGHT + 14, y + 5, words, kind=kind, anchor='start') for y, words, kind in placed]


def axes(iterations):
    "A horizontal line every ten points, and the iterations below."
    step = (RIGHT - LEFT) / (iterations - 1)
    xs = [round(LEFT + 20 + i * (step - 10)) for i in range(iterations)]
    lines = []
    for percent in range(LOW, HIGH, 10):
        y = height(percent)
        lines.append(f'<path d="M{LEFT} {y} H{RIGHT}" class="grid"/>')
        lines.append(text(LEFT - 8, y + 4, f'{percent} %', kind='small', anchor='end'))
    labels = ['untrained', *(f'iteration {i}' for i in range(1, iterations))]
    return xs, lines + [text(x, BOTTOM + 22, label, kind='small') for x, label in zip(xs, labels, strict=True)]


def demo(summary):
    "Accuracy by iteration, from the summary of the run that `make demo` makes."
    rows = summary['iterations']
    xs, lines = axes(len(rows))
    labels = []
    for series in SERIES:
        found = [row['methods'][series.key] for row in rows]
        points = [(x, 100 * f['accuracy'], 100 * f['stderr']) for x, f in zip(xs, found, strict=True)]
        lines += curve(series, points)
        last = points[-1][1]
        labels.append((height(last), f'{series.name} {last:.1f}', ''))
    calls = 100 * rows[0]['methods']['maj@9']['accuracy']
    lines.append(f'<path d="M{LEFT} {height(calls)} H{RIGHT}" class="arrow" stroke-dasharray="5 4"/>')
    labels.append((height(calls), f'maj@9, untrained {calls:.1f}', 'small'))
    lines += spread(labels)
    heading = (
        f'Accuracy on {summary["eval"]} held-out questions, nano, seed {summary["seed"]}; bars: ± 1 standard error'
    )
    lines.append(text(LEFT, 26, heading, kind='small', anchor='start'))
    return svg(heading, lines, box=(0, 8, 720, 325))


def pictures():
    "{file: its text}."
    summary = json.loads((NBS / 'data' / 'demo.json').read_text())
    return {IMAGES / 'loop.svg': loop(), IMAGES / 'demo.svg': demo(summary)}


def main():
    made = pictures()
    if '--check' in sys.argv:
        stale = [path.name for path, drawing in made.items() if not path.exists() or path.read_text() != drawing]
        return f'{", ".join(stale)}: not what tools/draw.py draws. Run it and commit.' if stale else 0
    IMAGES.mkdir(exist_ok=True)
    for path, drawing in made.items():
        path.write_text(drawing)
        print('wrote', path)


if __name__ == '__main__':
    sys.exit(main())
