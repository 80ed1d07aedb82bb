const debates = [...document.querySelectorAll('.debate')];
const buttons = [...document.querySelectorAll('button[data-mark]')];
const shown = document.getElementById('shown');
const find = document.getElementById('find');
const which = document.getElementById('which');
let mark = '';

function show() {
  const word = find.value.toLowerCase();
  let n = 0;
  for (const d of debates) {
    const marked = !mark || d.dataset.marks.split(' ').includes(mark);
    const there = !which.value || d.dataset.iteration === which.value;
    const found = !word || d.textContent.toLowerCase().includes(word);
    d.hidden = !(marked && there && found);
    n += !d.hidden;
  }
  shown.textContent = n + ' of ' + debates.length + ' shown';
}

for (const b of buttons) b.addEventListener('click', () => {
  mark = b.dataset.mark;
  for (const other of buttons) other.setAttribute('aria-pressed', other === b);
  show();
});
find.addEventListener('input', show);
which.addEventListener('change', show);
document.getElementById('filters').hidden = false;
show();
