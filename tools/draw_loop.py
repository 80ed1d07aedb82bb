"""Draw the loop of the method as nbs/images/loop.svg, for light and dark pages.

python tools/draw_loop.py           write the picture
python tools/draw_loop.py --check   change nothing; exit 1 when the picture is not what this file draws
"""

import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parents[1] / 'nbs' / 'images' / 'loop.svg'
WIDTH, TOP, HEIGHT = 860, 30, 262
AGENTS = ('a0', 'a1', 'a2')

STYLE = """
text { font-family: -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; font-size: 15px; fill: #1f2328 }
.small { font-size: 12px; fill: #57606a }
.box { fill: #f6f8fa; stroke: #8c959f; stroke-width: 1.2 }
.arrow { fill: none; stroke: #57606a; stroke-width: 1.6 }
.tip { fill: #57606a }
.a0 { fill: #0072b2 } .a1 { fill: #d55e00 } .a2 { fill: #009e73 }
.wrong { fill: none; stroke: #8c959f; stroke-width: 1.5; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9da7b3 }
  .box { fill: #161b22; stroke: #57606a }
  .arrow { stroke: #9da7b3 }
  .tip { fill: #9da7b3 }
  .a0 { fill: #56b4e9 } .a1 { fill: #e69f00 } .a2 { fill: #2bc49a }
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


def picture():
    "The whole drawing as SVG text."
    between = [arrow(f'M{a.x + a.width + 6} 130 H{b.x - 10}') for a, b in zip(STAGES, STAGES[1:], strict=False)]
    first, last = STAGES[1], STAGES[-1]
    back = arrow(f'M{last.x + last.width // 2} 222 V262 H{first.x + first.width // 2} V226')
    filling = [f(stage) for f, stage in zip((questions, debate, vote, examples, finetune), STAGES, strict=True)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {TOP} {WIDTH} {HEIGHT}" role="img" aria-labelledby="t">',
        '<title id="t">Questions are debated; the vote decides; every agent is finetuned on its own turns that led to'
        ' the vote; the improved society debates again.</title>',
        f'<style>{STYLE}</style>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" class="tip"/></marker></defs>',
        *(line for stage in STAGES for line in box(stage)),
        *(line for lines in filling for line in lines),
        *between,
        back,
        text((first.x + last.x + last.width) // 2, 282, 'the improved society debates again', kind='small'),
        '</svg>',
    ]
    return '\n'.join(parts) + '\n'


def main():
    if '--check' in sys.argv:
        same = PICTURE.exists() and PICTURE.read_text() == picture()
        return 0 if same else f'{PICTURE.name}: not what tools/draw_loop.py draws. Run it and commit.'
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture())
    print('wrote', PICTURE)


if __name__ == '__main__':
    sys.exit(main())
