const ROW = 48; // pixels, as in the style sheet
const byId = id => document.getElementById(id);
const debates = JSON.parse(byId('data').textContent);
const list = byId('list'), space = byId('space'), one = byId('one');
const find = byId('find'), which = byId('which'), kind = byId('kind'), run = byId('run'); // run: on a page of two runs
const buttons = [...document.querySelectorAll('button[data-mark]')];
const names = Object.fromEntries(buttons.map(b => [b.dataset.mark, b.textContent.replace(/ \(\d+\)$/, '')]));
let mark = '', question = null, shown = debates, at = -1;

function make(tag, className, text, ...children) { // text only, never markup
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text) e.textContent = text;
  e.append(...children);
  return e;
}

const rounds = d => [...new Set(d.turns.map(t => t.round))];
const spoken = (d, round) => d.turns.filter(t => t.round === round && t.role !== 'summarizer');
const signs = (d, round) => spoken(d, round).map(t => t.sign).join(', ');
const ends = d => signs(d, 1) + (rounds(d).length > 1 ? ' → ' + signs(d, Math.max(...rounds(d))) : '');
const words = d => d.words ??= [d.id, d.question, ...d.turns.map(t => t.text)].join('\n').toLowerCase();
const from = d => d.run ? d.run + ': ' : '';
const badges = d => d.marks.map(m => make('span', 'badge ' + m, names[m]));

function row(d, i) {
  const e = make('div', 'row', '', ...badges(d), make('span', '', ends(d)));
  e.append(make('span', 'small', `${from(d)}${d.debates} ${d.iteration} · ${d.id}: ${d.question}`));
  e.id = 'row' + i;
  e.setAttribute('role', 'option');
  e.setAttribute('aria-selected', i === at);
  e.setAttribute('aria-posinset', i + 1);
  e.setAttribute('aria-setsize', shown.length);
  e.style.top = i * ROW + 'px';
  e.addEventListener('click', () => choose(i));
  return e;
}

function draw() { // only the rows in view, and a few more
  const first = Math.max(Math.floor(list.scrollTop / ROW) - 5, 0);
  const last = Math.min(first + Math.ceil(list.clientHeight / ROW) + 10, shown.length);
  space.style.height = shown.length * ROW + 'px';
  space.replaceChildren(...shown.slice(first, last).map((d, i) => row(d, first + i)));
  if (at >= first && at < last) list.setAttribute('aria-activedescendant', 'row' + at);
  else list.removeAttribute('aria-activedescendant');
}

function show() {
  const word = find.value.toLowerCase();
  shown = debates.filter(d => (!mark || d.marks.includes(mark)) && (!which.value || String(d.iteration) === which.value)
    && (!kind.value || d.debates === kind.value) && (!run?.value || (run.value === 'there') === Boolean(d.run))
    && (!question || d.id === question) && (!word || words(d).includes(word)));
  byId('shown').textContent = shown.length + ' of ' + debates.length + ' shown';
  byId('all').hidden = !question;
  list.scrollTop = 0;
  at = -1;
  if (shown.length) choose(0);
  else { one.replaceChildren(); draw(); }
}

function choose(i) {
  at = Math.max(0, Math.min(i, shown.length - 1));
  if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
  if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
  draw();
  read(shown[at]);
}

function turn(t) {
  if (t.role === 'summarizer') {
    return make('details', 'turn', '', make('summary', '', 'summary for agent ' + t.agent), make('pre', '', t.text));
  }
  const e = make('div', 'turn ' + t.state, '', make('b', '', `${t.role} ${t.agent} `), make('span', '', t.sign));
  if (t.finish) e.append(make('span', 'small', ' · ' + t.finish));
  e.append(make('pre', '', t.text));
  if (t.examples) e.append(make('p', 'small', 'became an example for ' + t.examples.join(', ')));
  return e;
}

function history(d) { // one question over iterations
  const same = debates.filter(x => x.id === d.id && x.debates === d.debates);
  if (same.length < 2) return [];
  const button = x => {
    const b = make('button', '', `${from(x)}iteration ${x.iteration}: ${signs(x, Math.max(...rounds(x)))}`);
    b.setAttribute('aria-current', x === d);
    b.addEventListener('click', () => { question = d.id; kind.value = d.debates; which.value = ''; if (run) run.value = ''; mark = ''; find.value = ''; press(); choose(shown.indexOf(x)); });
    return b;
  };
  return [make('h4', '', 'This question over iterations'), make('div', '', '', ...same.map(button))];
}

function read(d) {
  const label = d.debates === 'training' ? (d.label === null ? 'no pseudo-label' : 'pseudo-label ' + d.label) + ' · ' : '';
  const about = `${from(d)}${d.debates}, iteration ${d.iteration} · ${label}${d.gold === null ? 'gold not known' : 'gold ' + d.gold}`;
  const parts = [make('h3', '', d.id), make('p', '', about), make('p', '', '', ...badges(d)), make('p', 'question', d.question)];
  for (const m of rounds(d)) {
    const turns = d.turns.filter(t => t.round === m);
    const first = turns.filter(t => t.role === 'summarizer'), then = turns.filter(t => t.role !== 'summarizer');
    parts.push(make('h4', '', 'Round ' + m), ...[...first, ...then].map(turn));
  }
  one.replaceChildren(...parts.slice(0, 4), ...history(d), ...parts.slice(4));
  one.scrollTop = 0;
}

function press() {
  for (const b of buttons) b.setAttribute('aria-pressed', b.dataset.mark === mark);
  show();
}

const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
list.addEventListener('keydown', e => {
  if (e.key in KEYS) { choose(KEYS[e.key] === Infinity ? shown.length - 1 : Math.max(at + KEYS[e.key], 0)); e.preventDefault(); }
  if (e.key === 'Enter') one.focus();
});
one.addEventListener('keydown', e => { if (e.key === 'Escape') list.focus(); });
list.addEventListener('scroll', draw);
for (const b of buttons) b.addEventListener('click', () => { mark = b.dataset.mark; press(); });
byId('all').addEventListener('click', () => { question = null; show(); });
for (const e of [find, which, kind, run]) e?.addEventListener('input', show);
for (const k of [...new Set(debates.map(d => d.iteration))].sort((a, b) => a - b)) {
  const option = make('option', '', 'iteration ' + k);
  option.value = k;
  which.append(option);
}
byId('filters').hidden = false;
document.querySelector('.browser').hidden = false;
addEventListener('resize', draw);
press();
