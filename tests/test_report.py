"The page of a run: complete, self-contained, and safe against what agents write."

import base64, hashlib, html, json, re, shutil, subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
import pytest
from hypothesis import given, strategies as st
from multiagent_ft.core import (
    Completion,
    MaftError,
    Problem,
    Transcript,
    Turn,
    read_jsonl,
    rng_for,
    transcript_to_dict,
    write_jsonl,
)
from multiagent_ft.answers.reading import read
from multiagent_ft.method.consensus import vote_to_dict
from multiagent_ft.runs.evaluate import FATES, health, outcome, since_start, summarize_outcomes
from multiagent_ft.runs.run import SCHEMA, pseudo_label_accuracy
from multiagent_ft.runs.settings import Config, save_config
from multiagent_ft.studies.outcomes import Study
from multiagent_ft.studies.plots import iterations_plot, svg_element
from multiagent_ft.studies.report import (
    MARKS,
    Debate,
    Talk,
    browser,
    headline,
    accuracy_points,
    choose,
    marks,
    page,
    percent,
    read_results,
    report,
    safe,
    warnings_of,
)
from multiagent_ft.studies.statistics import Point
from multiagent_ft.method.examples import Example, pseudo_labels, save_examples
from multiagent_ft.runs.tasks import Task

TASK = Task('t', 'number')
VOID = {'meta', 'input', 'br'}


class Reader(HTMLParser):
    "Every tag is closed in order; what there is is remembered."

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.data = [], [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, f'not closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f'</{tag}> in the wrong place'

    def handle_data(self, data):
        self.data.setdefault(self.open[-1] if self.open else '', []).append(data)


def data_of(text):
    "The debates in a page."
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def held(k, i, gold=True, evil=''):
    rng = rng_for('t', k, i)
    g = str(rng.randrange(50))

    def say(n, role, m):
        text = f'{evil}I say \\boxed{{{g if rng.random() < 0.5 else int(g) + 1}}}'
        finish = 'stop' if rng.random() < 0.9 else 'length'
        return Turn(n, role, m, Completion(text, finish, range(5), range(4)), read(text))

    return Transcript(
        Problem(f't/{k}-{i}{evil}', f'{evil}What?', g if gold else None),
        [say(n, 'generator', 1) for n in range(3)]
        + [say(n, 'summarizer', 2) for n in range(3)]
        + [say(n, 'critic', 2) for n in range(3)],
    )


def agent_report(i):
    return dict(
        examples=i,
        unique=i,
        tokens=9 * i,
        seen=20 * i,
        buckets=dict(agreed=i),
        w_asked=None,
        w_reached=None,
        truncated=0,
    )


def trained_on(here, k, n=12, gold=True, evil=''):
    "Write the debates that iteration `k` trained on; what summary.json says of them."
    debates = [held(k, i, gold, evil) for i in range(n)]
    votes = pseudo_labels(debates)
    write_jsonl(here / 'transcripts.jsonl', map(transcript_to_dict, debates))
    write_jsonl(here / 'votes.jsonl', (dict(problem=t.problem.id, **vote_to_dict(v)) for t, v in zip(debates, votes)))
    return dict(
        consensus=pseudo_label_accuracy(TASK, debates, votes),
        examples=dict(generator=[0, 1, 2], critic=[0] * 3),
        agents={f'generator-{i}': agent_report(i) for i in range(3)},
        sampled=health([outcome(t, TASK) for t in debates]) if gold else None,
    )


UNTRAINED = dict(
    consensus=dict(kept=0, asked=0, pseudo_label_accuracy=None), examples=dict(generator=[0] * 3, critic=[0] * 3)
)


def make_run(folder, iterations=2, n=12, gold=True, evil=''):
    outcomes, lines = [], []
    for k in range(iterations + 1):
        about = trained_on(folder / f'iteration-{k}', k, n, gold, evil) if k else UNTRAINED
        found = [dict(outcome(held(k + 10, i), TASK, 0, k), problem=f'q{i}') for i in range(n)]
        outcomes += found
        so_far = health(found) | since_start(outcomes)
        lines.append(dict(iteration=k, methods=summarize_outcomes(found), **about, health=so_far))
    write_jsonl(folder / 'outcomes.jsonl', outcomes)
    save_config(Config(task='t', recipe='multiagent-ft'), folder)
    with (folder / 'config.yaml').open('a', encoding='utf-8') as f:
        f.write(f'# {evil} hf_abcdefghijklmnopqrstuvwx\n')
    summary = dict(schema=SCHEMA, task='t', model=f'm{evil}', recipe='multiagent-ft', seed=0, agents=3, rounds=2)
    (folder / 'summary.json').write_text(json.dumps(summary | dict(train=n, eval=n, iterations=lines)))
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('run'))


def test_html_is_complete_and_well_formed(run):
    path = report(run)
    text = path.read_text(encoding='utf-8')
    r = Reader(text)
    assert path == run / 'report.html' and path.parent == run
    assert r.tags.count('svg') == 2 and r.tags.count('script') == 2 and len(data_of(text)) == 24
    for expected in (
        'Overview',
        'Health',
        'Cost',
        'Debates',
        'Origin',
        'Examples of every agent',
        'on the same questions',
        'wrong → right',
        'false consensus',
        'generator-0',
    ):
        assert expected in text, expected


def test_html_has_no_external_resources(run):
    r = Reader(page(read_results(run)))
    for tag, k, v in r.attributes:
        assert k not in ('src', 'action', 'data', 'srcset', 'poster'), (tag, k, v)
        assert k not in ('href', 'xlink:href') or v.startswith('#')
        assert not k.startswith('on')
        if k == 'style':
            assert 'url(' not in v or 'url(#' in v
    assert 'iframe' not in r.tags and 'link' not in r.tags


def test_content_security_policy_allows_only_our_script(run):
    text = page(read_results(run))
    r = Reader(text)
    rule = next(v for t, k, v in r.attributes if k == 'content' and 'default-src' in v)
    script = r.data['script'][-1]
    assert (
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in rule
        and "default-src 'none'" in rule
        and "script-src 'unsafe" not in rule
    )


EVIL = (
    '</pre><script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    '<!--',
    '</details></body></html>',
    "' onmouseover='alert(1)",
    '&lt;b&gt;',
    '\u202egnp.exe',
    '$\\alpha$_x',
    '\ud800',
)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "The page of a run that holds nothing evil."
    return Reader(page(read_results(make_run(tmp_path_factory.mktemp('plain'), 1, 3))))


@pytest.mark.parametrize('evil', EVIL)
def test_html_injection_is_escaped(tmp_path, evil, plain):
    "Whatever problem, model, words and configuration hold, the page has the tags it would have had."
    odd = make_run(tmp_path / 'b', 1, 3, evil=evil.encode('utf-8', 'replace').decode() if evil == '\ud800' else evil)
    if evil == '\ud800':
        f = odd / 'iteration-1' / 'transcripts.jsonl'
        f.write_text(f.read_text().replace('I say', '\\ud800 I say'))
    text = report(odd).read_text(encoding='utf-8')
    found = Reader(text)
    assert plain.tags == found.tags
    assert [(t, k) for t, k, _ in plain.attributes] == [(t, k) for t, k, _ in found.attributes]
    if evil not in ('\ud800', '\u202egnp.exe'):
        assert any(evil in d for d in found.data['pre']) and evil in data_of(text)[0]['turns'][0]['text']


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=60))
def test_fuzz_safe_escapes_markup_and_bidi(text):
    s = safe(text)
    s.encode('utf-8')
    assert not set('<>"\'') & set(s) and not re.search('[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]', s)


def test_report_is_byte_identical(run):
    assert page(read_results(run)) == page(read_results(run))


def test_report_holds_no_secret(run):
    text = page(read_results(run))
    assert 'hf_abcdefghijkl' not in text and '[redacted]' in text


def test_report_without_gold(tmp_path):
    r = read_results(make_run(tmp_path / 'x', gold=False))
    text = page(r)
    assert 'data-mark="false"' not in text and 'data-mark="corrected"' not in text and Reader(text)


def test_report_of_unfinished_runs(tmp_path):
    young = make_run(tmp_path / 'young', iterations=0)
    text = report(young).read_text(encoding='utf-8')
    assert 'no debates to show' in text and '<script>' not in text and Reader(text)
    part = make_run(tmp_path / 'part')
    (part / 'iteration-2/transcripts.jsonl').unlink()
    text = report(part).read_text(encoding='utf-8')
    assert len(data_of(text)) == 12 and Reader(text)


@pytest.mark.parametrize(
    'name, content, expected',
    [
        ('summary.json', None, 'no results'),
        ('summary.json', '{"a":', 'not valid JSON'),
        ('summary.json', '{"schema": 1}', 'schema 1'),
        ('iteration-1/transcripts.jsonl', '{"x"\n', 'line 1'),
        ('provenance.json', '[', 'not valid JSON'),
        ('outcomes.jsonl', None, 'no outcomes.jsonl'),
        ('outcomes.jsonl', '{"iteration": 0, "problem": "q", "first": []}\n', 'nothing of iteration 1'),
        ('config.yaml', None, 'config.yaml'),
    ],
)
def test_report_of_corrupt_folders(tmp_path, name, content, expected):
    run = make_run(tmp_path / 'x', 1, 3)
    (run / name).unlink(missing_ok=True)
    if content:
        (run / name).write_text(content)
    with pytest.raises(MaftError, match=expected) as e:
        report(run)
    assert len(str(e.value).splitlines()) <= 2 and not (run / 'report.html').exists()


def test_shown_debates_are_limited_and_counted(run):
    text = page(read_results(run), 8)
    assert len(data_of(text)) == 8 and '8 of 24' in text


def test_page_shows_evaluations_and_who_trained_on_a_turn(tmp_path):
    home = make_run(tmp_path / 'r', iterations=1, n=3)
    debate = held(1, 0)
    turn = debate.at(2)[1]
    example = Example((1,), turn.completion.token_ids, problem=debate.problem.id, round=2, bucket='correction')
    save_examples(home / 'iteration-1' / 'examples' / 'critic-1.jsonl', [example, example])
    write_jsonl(home / 'iteration-0' / 'eval.jsonl', [transcript_to_dict(held(9, 0))])
    found = data_of(page(read_results(home)))
    assert Counter(d['debates'] for d in found) == dict(training=3, evaluation=1)
    trained = [t for d in found for t in d['turns'] if 'examples' in t]
    # turns of the same text are the same example
    assert {t['round'] for t in trained} == {2} and trained[0]['examples'] == ['critic-1 (correction)']


def test_very_long_debates_are_fewer(run, monkeypatch):
    monkeypatch.setattr('multiagent_ft.studies.report.MOST_TEXT', 3500)
    r = read_results(run)
    first = r.debates[0]
    long = replace(first.transcript.turns[0], completion=Completion('x' * 1000, 'stop'))
    talks = [first._replace(transcript=replace(first.transcript, turns=(long,)))] * 12
    assert browser(replace(r, debates=talks)).shown[''] == 3


def test_headline_is_held_against_the_vote_at_equal_cost(run):
    records = read_results(run).study.records
    assert headline(Study(records)).than == 'the untrained debate'
    assert headline(Study(records[:1])).than == 'the vote of the first answers'
    records[0]['right']['maj@9'] = [1] * 6 + [0] * 6
    found = headline(Study(records))
    assert found.than.startswith('maj@9,')
    assert found.gain.mean == pytest.approx(sum(records[-1]['right']['debate']) / 12 - 0.5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('chromium'), reason='no chromium here')
def test_list_of_debates_is_virtual(tmp_path):
    "Of 600 debates a browser makes elements of the few in view, and reads the first."
    file = report(make_run(tmp_path / 'r', iterations=2, n=300))
    command = ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom', f'file://{file}']
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert '600 of 600 shown' in dom and 0 < dom.count('role="option"') < 60 and 'class="question"' in dom


# An outer page holds the report in a frame as wide as a phone, uses it by the keyboard, and writes down what it sees.
FRAME = """<!doctype html><body><iframe id="f" src="REPORT" style="width:390px;height:844px;border:0"></iframe><script>
addEventListener('load', () => setTimeout(() => {
  const w = document.getElementById('f').contentWindow, d = w.document, list = d.getElementById('list'), seen = {};
  const press = (e, key) => e.dispatchEvent(new w.KeyboardEvent('keydown', { key, bubbles: true }));
  seen.wider = d.documentElement.scrollWidth - d.documentElement.clientWidth;
  list.focus(); press(list, 'ArrowDown'); press(list, 'ArrowDown'); press(list, 'ArrowUp');
  seen.active = list.getAttribute('aria-activedescendant');
  seen.chosen = d.querySelector('[aria-selected=true]').id;
  press(list, 'Enter'); seen.reading = d.activeElement.id;
  press(d.activeElement, 'Escape'); seen.back = d.activeElement.id;
  const named = e => (e.getAttribute('aria-label') || e.textContent).trim();
  seen.nameless = [...d.querySelectorAll('button, select, input, figure, [role], nav, article')]
    .filter(e => e.getAttribute('role') !== 'presentation' && !named(e) && e.id !== 'shown')
    .map(e => e.outerHTML.slice(0, 80));
  const run = d.getElementById('run'); run.value = 'there'; run.dispatchEvent(new w.Event('input'));
  seen.there = d.getElementById('shown').textContent;
  document.body.dataset.seen = JSON.stringify(seen);
}, 300));</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('chromium'), reason='no chromium here')
def test_page_of_two_runs_on_a_phone_by_keyboard(tmp_path):
    "390 pixels: nothing makes the page wider than the screen. The list is used by keys alone, and all have names."
    one, two = make_run(tmp_path / 'one'), make_run(tmp_path / 'two', iterations=1)
    for folder in (one, two):
        debates = [replace(held(1, i), problem=Problem(f'q{i}', 'What? ' * 40, '7')) for i in range(12)]
        write_jsonl(folder / 'iteration-1' / 'eval.jsonl', map(transcript_to_dict, debates))
    (tmp_path / 'phone.html').write_text(FRAME.replace('REPORT', f'file://{report(one, two)}'))
    flags = [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--allow-file-access-from-files',
        '--virtual-time-budget=3000',
    ]
    command = ['chromium', *flags, '--dump-dom', f'file://{tmp_path}/phone.html']
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    seen = json.loads(html.unescape(re.search(r'data-seen="(.*?)"', dom)[1]))
    assert seen['wider'] == 0 and seen['nameless'] == [] and seen['there'] == '12 of 48 shown'
    assert (seen['active'], seen['chosen'], seen['reading'], seen['back']) == ('row1', 'row1', 'one', 'list')


def test_page_of_two_runs(tmp_path):
    one, two = make_run(tmp_path / 'one'), make_run(tmp_path / 'two', iterations=1)
    save_config(Config(task='t', recipe='multiagent-ft', agents=5), two)
    for folder, said in ((one, '7'), (two, '8')):
        last = read_jsonl(folder / 'outcomes.jsonl')
        k = max(o['iteration'] for o in last)
        for o in last:
            o['debate']['right'] = o['iteration'] == k and (folder == one) == (o['problem'] == 'q0')
        write_jsonl(folder / 'outcomes.jsonl', last)
        turns = [Turn(n, 'generator', 1, Completion(said, 'stop'), read(f'\\boxed{{{said}}}')) for n in range(3)]
        debates = [Transcript(Problem(f'q{i}', 'What?', '7'), turns) for i in range(2)]
        write_jsonl(folder / f'iteration-{k}' / 'eval.jsonl', map(transcript_to_dict, debates))
    text = report(one, two).read_text(encoding='utf-8')
    assert Reader(text) and 'Beside two' in text and '<th scope="row">agents</th><td>3</td><td>5</td>' in text
    assert 'on the same questions: -83.3 points' in text and 'better on 1, worse on 11 of 12' in text
    found = {(d['id'], d['run']): d['marks'] for d in data_of(text) if d['debates'] == 'evaluation'}
    assert found['q0', ''] == ['ahead'] and found['q0', 'two'] == ['ahead'] and found['q1', 'two'] == ['behind']
    (two / 'provenance.json').write_text(json.dumps(dict(asked=dict(evaluation='others'))))
    assert 'cannot be paired' in report(one, two).read_text(encoding='utf-8')


def test_choose_keeps_all_rare_debates():
    debates = [Debate(i, ['right'] if i % 50 else ['false', 'corrupted']) for i in range(1000)]
    chosen = choose(debates, 150)
    assert len(chosen) == 150 and [d.talk for d in chosen] == sorted(d.talk for d in chosen)
    assert sum('false' in d.marks for d in chosen) == 20, 'all rare ones are there'
    assert list(MARKS) == ['corrected', 'corrupted', 'false', 'right', 'none', 'truncated']


def test_report_numbers_match_the_summary(run):
    text, summary = page(read_results(run)), json.loads((run / 'summary.json').read_text())
    assert [len(it['health']['flips']) for it in summary['iterations']] == [1, 1, 1]
    for it in summary['iterations']:
        for m, x in it['methods'].items():
            assert f'{100 * x["accuracy"]:.1f} [' in text
        for f in it['health']['flips']:
            assert f'{f["corrected"]} / {f["corrupted"]}' in text
        if fates := it['health'].get('fates'):
            assert ''.join(f'<td>{n}</td>' for n in fates.values()) in text
        shown = ' → '.join(percent(x) for x in it['health']['pass_at_k'])
        assert f'<td>{shown}</td>' in text
    for _, value, low, high in [p for ps in accuracy_points(read_results(run).study).values() for p in ps]:
        assert 0 <= low <= value <= high <= 1


def test_health_csv_holds_the_measures_of_the_summary(run):
    import pandas as pd

    report(run)
    rows = pd.read_csv(run / 'health.csv')
    now = json.loads((run / 'summary.json').read_text())['iterations'][2]['health']
    (row,) = rows[(rows.iteration == 2) & (rows.debates == 'evaluation')].to_dict('records')
    for name in ('generation_verification_gap', 'refinement_gap', 'flip_rate', 'false_consensus'):
        assert row[name] == pytest.approx(now[name])
    assert [row[f'pass_at_{k}'] for k in (1, 2, 3)] == pytest.approx(now['pass_at_k'])
    assert {f: row[f] for f in FATES} == now['fates']
    assert row['collapsed'] == now['collapse']['collapsed'] and len(rows) == 5


def test_debate_tags_match_the_outcomes(run):
    tags = set()
    for talk in read_results(run).debates:
        o, found = outcome(talk.transcript, TASK), marks(talk)
        tags |= set(found)
        flips = list(zip(o['right_first'], o['right_final']))
        assert ('corrected' in found) == any(b and not a for a, b in flips)
        assert ('corrupted' in found) == any(a and not b for a, b in flips)
        assert sum(x in found for x in ('false', 'right', 'none')) == 1
    assert {'corrected', 'corrupted', 'false', 'right'} <= tags


def test_warnings(run):
    calm = dict(flips=[dict(round=2, corrected=3, corrupted=3)], finish=dict(stop=100), collapse={})
    records = json.loads(json.dumps(read_results(run).study.records))
    for r in records:
        r['health'].update(calm)
        r['labels'].update(pseudo_label_accuracy=None, kept=r['labels']['asked'])
        for a in r['training'].get('agents', {}).values():
            a['examples'] = 3
    assert warnings_of(Study(records)) == []

    def warned(section, **values):
        found = json.loads(json.dumps(records))
        found[1][section].update(values)
        return ' '.join(warnings_of(Study(found)))

    assert 'only 2 of 12 questions got a pseudo-label' in warned('labels', kept=2)
    assert 'trained on mistakes' in warned('labels', pseudo_label_accuracy=0.3)
    assert 'corrupted 20' in warned('health', flips=[dict(round=2, corrected=3, corrupted=20)])
    assert warned('health', flips=[dict(round=2, corrected=3, corrupted=4)]) == '', 'four against three is chance'
    assert 'max_new_tokens' in warned('health', finish=dict(stop=80, length=20))
    assert '7 of 100 prompts' in warned('health', finish=dict(stop=93, context_overflow=7))
    assert 'consensus collapse' in warned('health', collapse=dict(agreement=0.1, accuracy=-0.2, collapsed=True))
    records[1]['training']['agents']['generator-0']['examples'] = 0
    assert warnings_of(Study(records)) == ['Iteration 1: no examples for generator-0; unchanged.']


def test_svg_plot_is_inline_and_small():
    svg = svg_element(
        iterations_plot(
            {'_hidden $x$': [Point(0, 0.5, 0.4, 0.6), Point(1, 0.6, 0.5, 0.7)], 'once': [Point(0, 0.2)]}, 'right'
        )
    )
    assert svg.startswith('<svg') and 'hidden $x$' in svg and '<image' not in svg and len(svg) < 40_000
    assert percent(None) == '' and percent(0.5, 0) == '50 %'


def test_report_of_early_stop_and_empty_turns(run):
    turns = [Turn(n, 'generator', 1, Completion('', 'context_overflow')) for n in range(2)]
    t = Transcript(Problem('p', 'q', '7'), turns)
    talk = Talk(1, 'training', t)
    assert marks(talk) == ['none', 'truncated'] and marks(talk._replace(debates='evaluation')) == ['truncated']
    text = page(replace(read_results(run), debates=[talk]))
    assert Reader(text) and 'context_overflow' in text and len(data_of(text)) == 1


def test_template_has_no_safe_filter():
    "Markup of ours is the style, the script and the plots; the template itself marks nothing as safe."
    from importlib.resources import files

    template = (files('multiagent_ft.studies') / 'report_page' / 'page.html.jinja').read_text(encoding='utf-8')
    assert '|safe' not in template.replace(' ', '') and 'autoescape' not in template


@pytest.mark.slow
def test_report_of_a_real_run(tmp_path):
    from multiagent_ft.runs.settings import load_config
    from multiagent_ft.runs.run import run

    run(
        load_config(
            None, dict(train=24, eval=12, iterations=1, workers=0, wandb='off', seed=3, out=str(tmp_path / 'r'))
        )
    )
    text = report(tmp_path / 'r').read_text(encoding='utf-8')
    found = data_of(text)
    assert Reader(text) and Counter(d['debates'] for d in found) == dict(training=24, evaluation=24)
    trained = json.loads((tmp_path / 'r' / 'summary.json').read_text())['iterations'][1]['agents']
    shown = Counter(name.split(' ')[0] for d in found for t in d['turns'] for name in t.get('examples', []))
    # a turn that says the very same as another agent's in that round is marked, too
    assert shown.keys() == trained.keys() and all(shown[name] >= a['unique'] for name, a in trained.items())
