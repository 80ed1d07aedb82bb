"Answers: what is read, what is the same, and that nothing a model can say does harm."

import json, multiprocessing, os, random, re, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from conftest import ROOT, SHARED, needs_shared
from multiagent_ft.answers import reading as answers
from multiagent_ft.answers.reading import announced, canonical, extract, group, last_box, parse, read, same
from multiagent_ft.core import Answer, Completion, MaftError
from multiagent_ft.answers.latex import Unread, tidy
from multiagent_ft.answers.reading import LENGTH, NUMBER, number_value, settle, spell, undress
from multiagent_ft.answers.sandbox import Sandbox
from multiagent_ft.answers.symbolic import form

DATA = SHARED / 'data'


# Reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'text,answer',
    [
        (r'\boxed{18}', '18'),
        (r'so \boxed{7}, no: \boxed{8}', '8'),
        (r'\boxed{\frac{1}{2}}', '0.5'),
        (r'\boxed{\text{18 apples}}', '18'),
        (r'\boxed{\boxed{5}}', '5'),
        (r'\boxed 5', '5'),
        (r'\fbox{12}', '12'),
        (r'\boxed{5} and then \fbox{6}', '6'),
        (r'\boxed{x = 5}', '5'),
        (r'\boxed{\$1{,}234.50}', '1234.5'),
        (r'\boxed{1\,234\,567}', '1234567'),
        ('She has 5.\n#### 18', '18'),
        ('#### -1,234', '-1234'),
        ('A: 18', '18'),
        ('a: 18', '18'),
        ('**Answer:** 18', '18'),
        ('Final answer: $18', '18'),
        ('The answer is 18.', '18'),
        ('the answer is therefore 18 apples.', '18'),
        ('The final answer to the question is: **18**', '18'),
        ('Answer = 18', '18'),
        ('The answer is 3 + 4 = 7.', '7'),
        ('The answer is 42, since 50 - 8 = 42', '42'),
        ('Hence\n$$x = 18$$', '18'),
        (r'Hence \[ 18 \]', '18'),
        ('$$1$$ and $$2$$', '2'),
        ('18', '18'),
        ('$18.00', '18'),
        ('€ 18', '18'),
        ('£1,000', '1000'),
        ('18%', '18'),
        (r'18\%', '18'),
        ('−18', '-18'),
        ('–3', '-3'),
        ('-$5', '-5'),
        ('$-5', '-5'),
        ('18 km/h', '18'),
        ('5 m^2', '5'),
        ('1/2', '0.5'),
        ('3 1/2', '3.5'),
        ('.5', '0.5'),
        ('1e3', '1000'),
        ('12 345', '12345'),
        ('<think>\\boxed{3}</think>\\boxed{4}', '4'),
        ('I guess 3.</think>The answer is 4', '4'),
        ('x = 18', '18'),
        ('#### Step 2: add\nThe answer is 18', '18'),
        ('#### 18\n\n', '18'),
        ('5 m²', '5'),
        (r'\boxed{1.5 \times 10^3}', '1500'),
        ('The answer is 1.2 × 10⁻³ m.', '0.0012'),
        (r'\boxed{1⁄2}', '0.5'),
        ('The answer is １８。', '18'),
        ('The answer is 5\u200b.', '5'),
        (r'\boxed{US\$12}', '12'),
        (r'\boxed{50 zł}', '50'),
        (r'\boxed{\texttt{12}}', '12'),
        (r'\boxed{12}\tag{1}', '12'),
        (r'\framebox{12}', '12'),
        (r'\boxed{5\;\text{cm}}', '5'),
    ],
)
def test_extract_number(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    'text',
    [
        '',
        ' ',
        'I do not know.',
        'eighteen',
        r'\boxed{}',
        r'\boxed{5} then \boxed{\frac{1',
        r'\boxed{',
        r'\boxed',
        '<think>\\boxed{3}',
        '<think>it is 3',
        r'\boxed{2\pi}',
        r'\boxed{3 \text{ or } 4}',
        r'\boxed{3, 4}',
        r'\boxed{5-3}',
        r'\boxed{1/0}',
        r'\boxed{2x}',
        'First 3*7=21.\nThen 21+4=25',
        '25-6=19, then 19+',
        '3*7=21',
        'The answer is',
        'Answer: none',
        '####',
        r'\boxed{-(40)}',
        'The answer is minus 40',
        'The answer is negative 40.',
        'The answer is not 40 but -40',
        '2π',
        '5²',
        '√16',
        '|-5|',
        '3 million',
        '3 and a half',
        '5 ± 1',
        '<think>a</think> hm <think> \\boxed{3}',
        r'\boxed{a = 5, b = 6}',
        r'\boxed{5; 6}',
        r'\boxed{0.333...}',
        r'\boxed{18K}',
        r'\boxed{10^3}',
        'The answer is not 18, it is 20.',
        '<analysis>it may be \\boxed{5}',
    ],
)
def test_unparsed_is_none(text):
    assert extract(text) is None


@pytest.mark.parametrize(
    'text,answer',
    [
        (r'\boxed{x^2+1}', 'x^2+1'),
        (r'\boxed{\left\{1,\frac{2}{3}\right\}}', r'\left\{1,\frac{2}{3}\right\}'),
        (r'Thus $$x=\frac{\sqrt{3}}{2}.$$', r'x=\frac{\sqrt{3}}{2}'),
        ('The answer is $x^2$.', 'x^2'),
        ('The answer is $x^2$, because $x>0$.', 'x^2'),
        ('The answer is x=1 and y=2', 'x=1 and y=2'),
        (r'\boxed{\text{odd but not prime}}', r'\text{odd but not prime}'),
        ('#### (1,2]', '(1,2]'),
        (r'Answer: \( \pi \)', r'\pi'),
        (r'\boxed{\text{no solution}}', r'\text{no solution}'),
        (r'\boxed{\}}', r'\}'),
        ('The answer is `x+1`.', 'x+1'),
        (r'The answer is $\sqrt{2}$ (about 1.41).', r'\sqrt{2}'),
        (r'The answer is $2\pi$, approximately 6.28.', r'2\pi'),
        (r'So $\left(\boxed{1},\boxed{2}\right)$.', '(1, 2)'),
    ],
)
def test_extract_math(text, answer):
    assert extract(text, 'math') == answer


@pytest.mark.parametrize(
    'text,answer',
    [
        (r'\boxed{B}', 'B'),
        ('(B)', 'B'),
        ('B.', 'B'),
        ('b', 'B'),
        ('option B', 'B'),
        ('The answer is option (C).', 'C'),
        ('The answer is (B) 12 metres', 'B'),
        ('Answer: D', 'D'),
        ('The correct answer is B because A is too small', 'B'),
        (r'\boxed{\text{(A)}}', 'A'),
        (r'\boxed{\textbf{C}}', 'C'),
        ('**B**', 'B'),
        ('A', 'A'),
        ('A: 12 metres', 'A'),
        ('A: B', 'A'),
        ('(B), not (C)', 'B'),
        ('B or C', None),
        ('The answer is (B) or (C)', None),
        ('The answer is C, C', 'C'),
        ('A dog', None),
        ('none of them', None),
        ('The answer is unclear', None),
        (r'\boxed{A} \boxed{', None),
        *(
            (re.sub(r'\bA\b', c, t), c)
            for c in 'AB'
            for t in (
                'The answer is A, the first',
                'A because it is larger',
                'A (transverse waves)',
                'A is right',
                'Answer: A, I think',
                "The answer is A, I'm sure",
                'The answer is A, since 2>1',
            )
        ),
        ('not (B)', None),
        ('The answer is not A.', None),
        ('B is not right', None),
        ('(B) it is not moving', 'B'),
        ('The answer is B, not C', 'B'),
        ('The answer is A, C', None),
        ('B and C', None),
    ],
)
def test_extract_choice(text, answer):
    assert extract(text, 'choice') == answer


@pytest.mark.parametrize(
    'text,answer',
    [
        (r'It follows that \(24\) is too small. The answer is \(25\).', '25'),
        (r'**Final Answer:** \(\$1,\!250\)', '1250'),
        (r'Answer: \[ \frac{3}{8} \]', '0.375'),
        ('So, the answer is\n\\[\n36\n\\]', '36'),
        ('Therefore...\n\n## Final Answer\n\n36 boxes', '36'),
        ('**Answer**\n\n$36', '36'),
        ('<reasoning>6*6</reasoning>\n<answer>\n36\n</answer>', '36'),
        ('<answer>The answer is 36.</answer>', '36'),
        ('[THINK]7?[/THINK]\\boxed{36}', '36'),
        (
            '<|channel|>analysis<|message|>\\boxed{7}<|end|>'
            '<|start|>assistant<|channel|>final<|message|>It is \\boxed{36}',
            '36',
        ),
        ('analysisMaybe \\boxed{7}.assistantfinal\\boxed{36}', '36'),
        ('The answer is 36.\n\nProblem: Tom has 4 cats.\nThe answer is 4.', '36'),
        ('6*6 = 36\nA: 36\n\nQ: Ann has 4 dogs. How many?\nA: 4', '36'),
        ('**Question:** how many?\n**Answer:** 36', '36'),
        ('The answer is 3 + 4 = 7 boxes, so 7 * 6 = 42 eggs.', '42'),
        ('The answer is ¾.', '0.75'),
        ('Answer: 1¼', '1.25'),
        (r'\boxed{\approx 36}', '36'),
        (r'\boxed{36 \quad \text{eggs}}', '36'),
        (r'\boxed{\boldsymbol{36}}', '36'),
        (r'\boxed{\color{blue}{36}}', '36'),
        (r'We box it: \boxed{36}. Put your answer in \boxed{}.', '36'),
        (r'I shall use \boxed for it: \boxed{36}', '36'),
        ('It is 36!', '36'),
        ('*Answer:* _36_', '36'),
        ('Answer — 36', '36'),
        ('Answer: —36', '-36'),
        ('<final_answer>36 eggs</final_answer>', '36'),
        ('Counting gives <|begin_of_box|>36<|end_of_box|>', '36'),
        (r'\boxed{\pounds 36}', '36'),
        (r'\boxed{\text{\texteuro}36}', '36'),
        ('So the answer is\n\\begin{align*}\n36\n\\end{align*}', '36'),
        ('The answer is 36.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd 2+2? The answer is 4.', '36'),
        ('The answer is 36.</s> [INST] And 2+2? [/INST] The answer is 4.', '36'),
        ('#### 36<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n#### 4', '36'),
        ('<Think>\\boxed{7}</Think>\\boxed{36}', '36'),
        ("The answer is 36. Agent 1's answer is 35, and their answer is wrong.", '36'),
        ("Agent 2's answer is correct: 36", None),
        ('Answer -> 36', '36'),
        ('Answer: ***36***', '36'),
        ('**Answer:**\n```\n36\n```', '36'),
        ('```\n36\n```', '36'),
        ('<result>36</result>', '36'),
        ('The answer is 36 instead of 40.', '36'),
        ('The answer is 36 (not 40).', '36'),
        ('\\boxed{36}\n\nExample 2: next\n\\boxed{4}', '36'),
        ('The answer is 36.\n\nQuestion 2\nWhat is 2+2? The answer is 4.', '36'),
        ('The answer is 36.<eos><bos>The answer is 4.', '36'),
        ('The answer is 36.\n\nTask: add.\nThe answer is 4.', '36'),
        ('<|channel|>analysis<|message|>5?<|end|><|start|>assistant<|channel|>final<|message|>36<|return|>', '36'),
    ],
)
def test_answer_phrases_of_models(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    'text',
    [
        r'\boxed{6!}',
        'Answer: $6!$',
        'The answer is 6! which is a lot',
        r'\boxed{1} and \boxed{2}',
        'The answer is x = 3 and y = 4',
        r'[THINK] it may be \boxed{5}, but then',
        r'<thought> it may be \boxed{5}',
        r'<|channel|>analysis<|message|>it may be \boxed{5}',
        'analysisIt may be \\boxed{5}',
        'First\n\\[ 6 \\cdot 6 = 36 \\]\nand then we',
        'First $$36$$ and then we',
        '<THINKING>it may be \\boxed{5}',
        "Agent 1's answer is 35. Agent 2's answer is 36.",
        'So the answer is correct. We check: 6*6 = 36',
        'So the answer is\n\\begin{align*}\n36',
    ],
)
def test_unfinished_reasoning_is_unparsed(text):
    assert extract(text) is None


@pytest.mark.parametrize(
    'text,answer',
    [
        (r'The zeros are $\boxed{4}$ and $\boxed{-3}$.', '4, -3'),
        (r'$x = \boxed{4}$ and $y = \boxed{-3}$', 'x=4, y=-3'),
        (r'She needs \boxed{4} eggs, \boxed{3} cups and \boxed{2} pans.', '4, 3, 2'),
        (r'First \boxed{4}, but then \boxed{3}', '3'),
        (r'\boxed{4}. And also \boxed{3}', '3'),
        (r'\boxed{4} and again \boxed{4}', '4'),
    ],
)
def test_several_boxes_of_one_answer_are_joined(text, answer):
    assert extract(text, 'math') == answer


TRUNCATED = [
    ('The answer is 18', None),
    ('The answer is 18.', None),
    ('The answer is 18. We check', '18'),
    ('The answer is 18\nWe check', '18'),
    (r'\boxed{18} and', '18'),
    (r'\boxed{18', None),
    ('#### 18', None),
    ('#### 18\n', '18'),
    ('<answer>18', None),
    ('<answer>18</answer>', '18'),
    (r'\[ x = 18 \]', None),
    ('18', None),
    ('#### 18\n\nQuestion: and what', '18'),
    ('The answer is\n\\[ 18', None),
    ('Answer:\n```\n18', None),
    ('```\n18\n```', None),
]


@pytest.mark.parametrize('text,answer', TRUNCATED)
def test_truncated_completion_is_read_only_with_a_conclusion(text, answer):
    for finish in ('length', 'context_overflow', 'error'):
        found = read(Completion(text, finish))
        assert (found and found.text) == answer
        assert read(Completion(text, finish), reading='last') == found
    assert read(Completion('... <b>18', 'length'), r'regex:<b>(\d+)') is None
    assert read(Completion('... <b>18</b>', 'length'), r'regex:<b>(\d+)').text == '18'


def test_read_returns_how_and_the_canonical_form():
    how = {
        r'\boxed{\frac{1}{2}}': ('0.5', 'boxed'),
        'The answer is 1/2': ('0.5', 'announced'),
        r'So \[ \frac{1}{2} \]': ('0.5', 'display'),
        '0.50': ('0.5', 'line'),
    }
    for text, (value, by) in how.items():
        assert read(text) == read(Completion(text, 'stop')) == Answer(value, value, by)
    long = 'She ate 3 of 7 eggs, then 2.5 more. Nobody knows.'
    assert read(long) is None and read(long, reading='last') == Answer('2.5', '2.5', 'last')
    assert read('Maybe (A), or rather (B)? Hm. Hard.', 'choice', reading='last').text == 'B'
    assert read('We find $x^2$. Then $y^2$ follows.', 'math', reading='last').text == 'y^2'
    with pytest.raises(MaftError, match='way of reading'):
        read('18', reading='loose')


def shown_as_displays(text):
    *steps, last = text.strip().split('\n')
    steps = [re.sub(r'<<(.*?)>>', r'\n\\[ \1 \\]\n', s) for s in steps]
    return '\n'.join([*steps, 'Thus the answer is $\\boxed{%s}$.' % last.removeprefix('A: ')])


@needs_shared
def test_truncated_recorded_solutions_are_unparsed():
    "800 recorded solutions, every step a display formula, truncated at 40 to 95 % of the way to their box."
    lines = [json.loads(line) for line in open(DATA / 'gsm8k/model_solutions.jsonl', encoding='utf-8')]
    texts = [shown_as_displays(x[m]['solution']) for x in lines for m in x if isinstance(x[m], dict)]
    rng, unread, false, concluded = random.Random(7), 0, 0, 0
    for text in rng.sample(texts, 800):
        truncated = text[: int(text.rfind('Thus the answer') * rng.uniform(0.4, 0.95))]
        concluded += any(read(Completion(truncated, 'length'), kind) for kind in ('number', 'math'))
        found = extract(truncated)
        unread += found is None
        false += found is not None and not same(found, extract(text))
    assert concluded <= 2 and 800 - unread <= 40 and false <= 16


CHOICES = ['Paris', 'London', '9 eggs', r'$\frac{1}{2}$', '0.5 eggs']


@pytest.mark.parametrize(
    'text,answer',
    [
        (r'Hence \boxed{v = 3 \text{ m/s}}. The answer is (C).', 'C'),
        (r'We find \boxed{42}, which is option (B).', 'B'),
        ('The answer is (B) $\\boxed{42}$', 'B'),
        (r'\boxed{42}', None),
        ('The law says $F = ma$, so the answer is $F = ma$.', None),
        ('Thus\n\\[ V = IR \\]', None),
        ('Thus\n\\[ B \\]', 'B'),
        (r'\boxed{P(A) = 0.3}', None),
        ('The answer is $N(0, 1)$.', None),
        ('The answer (D) is false.', None),
        ('The answer is (D) is not correct since', None),
        ('The answer is (B). Options (A) and (D) are wrong.', 'B'),
        ('The answer is **(B) Ribosomes**, rather than (D).', 'B'),
        ('The answer: B, it cannot be A or D', 'B'),
        ('The answer is (B), but (D) would be better', None),
        ('The answer is B or D', None),
        ('So (D) is the best answer.', 'D'),
        ('Therefore, option (D) is correct.', 'D'),
        ('Vitamin C is the best choice for that.', None),
        ('D. Lima', 'D'),
        ('D. Lima\n\nLima lies in Peru.', 'D'),
        ('A. Lima: no\nB. Quito: yes', None),
        ('We look at each.\n\n**(D)**', 'D'),
        ('<answer>D</answer>', 'D'),
        ('The answer is not (A), but (D).', 'D'),
        ('The answer is not (A), but not (D) either.', None),
        ('Sodium floats. Hence, D is correct.', 'D'),
        ('Vitamin C is correct', None),
        ('So D.', 'D'),
        ('I think it must be (D).', 'D'),
        ('I think it is a bird.', None),
        ('The answer is most likely D', 'D'),
        ('The answer is probably not D.', None),
        ('the answer is (d) lima', 'D'),
        ('Thus, (D).', 'D'),
        ('By elimination, option D.', 'D'),
        ("The answer is not C, it's D.", 'D'),
        ('The answer is not C, it is not D.', None),
        ('The answer is letter D.', 'D'),
        ('```\nD\n```', 'D'),
        ('The answer is （Ｄ）.', 'D'),
        ('So, it is vitamin D.', None),
        *((f'The answer is {name}.', None) for name in ('C++', 'C#', 'A+', 'U.S.', 'X-rays', 'B-cells')),
    ],
)
def test_extract_choice_by_its_text(text, answer):
    assert extract(text, 'choice') == answer


@pytest.mark.parametrize(
    'text,kind,answer',
    [
        ('He earns **$24** a day.\n\n**$24**', 'number', '24'),
        ('He earns **$24** a day.\n\n**Tuesday**', 'number', None),
        ('2. Two numbers\n\n**3 and 4**', 'number', None),
        ('Therefore\n\n**$\\frac{2}{5}$**', 'math', '\\frac{2}{5}'),
        ('The answer is _24_.', 'number', '24'),
        ('The answer is 24 (that is, 8*3).', 'number', '24'),
        ('The answer is 24 (8 bags × $3).', 'number', '24'),
        ('The answer is 24 (or 25).', 'number', None),
        ('The answer is 3 (mod 7).', 'number', None),
        ('The answer is 5 (if x = 2) or 6 (if x = 3).', 'number', None),
        ('<solution>The answer is 18</solution>', 'number', '18'),
        ('Answer: 8*3=<<8*3=24>>24', 'number', '24'),
        ('Answer: <<24>>', 'number', '24'),
        ('The answer is US$24.50.', 'number', '24.5'),
        ('The answer is Rs. 24', 'number', '24'),
        ('The answer is 24k', 'number', None),
        ('The answer is 24 km', 'number', '24'),
        ('The answer is 2**10', 'number', None),
        ('The letter is D', 'choice', 'D'),
        ("Both fit, so I'd go with C.", 'choice', 'C'),
        ('If I choose A, the sum is odd.', 'choice', None),
        ('**C**, as opposed to D', 'choice', 'C'),
        ('B, I think.', 'choice', 'B'),
        (r'It is the point $(\boxed{3}, \boxed{4})$.', 'math', '(3, 4)'),
        (r'The answer is $\frac{2}{7}$, i.e. about a quarter.', 'math', r'\frac{2}{7}'),
        ('<|think|>\\boxed{5}', 'number', None),
        ('<|think|>\\boxed{5}<|/think|>\\boxed{6}', 'number', '6'),
    ],
)
def test_extract_as_models_write(text, kind, answer):
    assert extract(text, kind) == answer


@pytest.mark.parametrize(
    'a,b',
    [
        ('2**10', '1024'),
        (r'-\infty<x<3', r'(-\infty,3)'),
        (r'x>3', r'\infty>x>3'),
        (r'3\leq x<\infty', r'[3,\infty)'),
        ('US$24', '24'),
        (r'(-\infty,\infty)\setminus\{0\}', r'x \neq 0'),
        (r'x < 1 \lor x > 2', r'x<1\text{ or }x>2'),
        (r'1 < x \wedge x < 2', '(1,2)'),
    ],
)
def test_equal_in_these_spellings_too(a, b):
    assert same(a, b)


@pytest.mark.parametrize(
    'text,answer',
    [
        ('The answer is (F).', None),
        (r'\boxed{Z}', None),
        (r'\boxed{9}', 'C'),
        (r'\boxed{\text{London}}', 'B'),
        ('The answer is Paris, of course.', 'A'),
        ('london', 'B'),
        (r'\boxed{0.5}', None),  # two choices have this value
        ('The answer is Rome.', None),
        ('The answer is (A).', 'A'),
    ],
)
def test_read_with_choices(text, answer):
    found = read(text, 'choice', choices=CHOICES)
    assert (found and found.text) == answer


@given(st.text(), st.sampled_from(['number', 'math', 'choice']), st.sampled_from(['stop', 'length']))
@settings(deadline=None, max_examples=200)
def test_truncated_text_reads_the_same_or_unparsed(text, kind, finish):
    found, whole = read(Completion(text, finish), kind), read(text, kind)
    assert found is None or finish == 'stop' and found == whole or found.how in ('boxed', 'announced')
    if found:
        assert found.form == canonical(found.text)


def test_user_pattern():
    assert (
        extract('<b>12</b> <b>13</b>', r'regex:<b>(\d+)</b>') == '13'
        and extract('say 7!', r'regex:\d') == '7'
        and extract('nothing', r'regex:\d') is None
    )
    assert extract('a' * 40 + 'b', 'regex:^(a+)+$') is None  # would take longer than the universe has had
    assert extract('a1', r'regex:\d') == '1'  # and does no harm to the next one
    for kind in ('regex:(', 'words', ''):
        with pytest.raises(MaftError, match='kind of answer'):
            extract('x', kind)


@given(st.text(), st.sampled_from(['number', 'math', 'choice']))
@settings(deadline=None, max_examples=300)
def test_extract_never_raises(text, kind):
    a = extract(text, kind)
    assert a is None or a and isinstance(a, str)


@given(st.fractions(max_denominator=10**6))
def test_numbers_round_trip(v):
    assert extract(f'So \\boxed{{{spell(v)}}}.') == spell(v) == spell(number_value(NUMBER.fullmatch(undress(spell(v)))))
    assert extract(f'\\boxed{{\\frac{{{v.numerator}}}{{{v.denominator}}}}}') == spell(v)
    assert settle(settle(v)) == settle(v)


def test_extract_takes_linear_time():
    "Not a stopwatch: each of these would take hours if it were quadratic."
    for t in (
        '\n' * 10**6,
        '\\[' * 500_000,
        '$$' * 500_001,
        'answer ' * 200_000,
        '\\boxed{' * 200_000,
        'a:' * 500_000,
        '#### ' * 200_000,
        '=' * 10**6,
        '{' * 10**6 + '\\boxed{5}',
    ):
        for kind in ('number', 'math', 'choice'):
            extract(t, kind)
    assert extract('{' * 10**6 + '\\boxed{5}') == '5' and last_box('x') is None and announced('\\boxed{}').text == ''


# The same ---------------------------------------------------------------------------------------------------

CLASSES = [
    [
        '0.5',
        '1/2',
        r'\frac{1}{2}',
        r'\dfrac12',
        '.5',
        '$0.50$',
        '0.5%',
        r'\frac{2}{4}',
        r'x=\frac12',
        r'\sin(\frac{\pi}{6})',
        '2x=1',
    ],
    ['70000', '70,000', r'70{,}000', r'\$70,000.00', '7e4', r'7\times10^4', '70000 dollars', r'70\,000'],
    ['10%', '10', r'10\%', '10 percent', '+10'],
    ['0.1', '1/10'],
    ['-3', '−3', r'-\frac{6}{2}'],
    [r'\sqrt{8}', r'2\sqrt{2}', 'sqrt(8)', '2*sqrt(2)', r'2\sqrt2', '8^{1/2}'],
    ['1.3098', r'$x \approx 1.3098$', r'x=1.3098'],
    [r'x \approx 4.177, x \approx 5503.665', '4.177, 5503.665'],
    ['25/3', r'x=\frac{25}{3} \approx 8.33', '8.333333333333334', r'\frac{25}{3}'],
    ['8.33'],
    ['1/3'],
    ['0.333'],
    ['x+1', r'\frac{x^2-1}{x-1}', '1 + x'],
    [r'\sqrt{x^2}', '|x|'],
    ['x', '(x)', '$x$'],
    [r'\sqrt{t^2}', '|t|'],
    ['t'],
    [r'\ln |y|'],
    [r'\ln y', r'\ln(y)'],
    ['X'],
    ['2x+y=3', 'y=3-2x', '4x+2y=6'],
    ['3-2x', 'f(x)=3-2x'],
    ['x<5', r'(-\infty,5)', '5>x', r'\{x \mid x<5\}', r'-2x>-10'],
    [r'x\leq5', r'(-\infty,5]'],
    ['1<x<2', '(1,2)', '2>x>1'],
    ['[1,2)', r'1\le x<2'],
    ['[1,2]'],
    ['(2,1)'],
    ['7,-7', '-7, 7', r'\pm 7', r'\{7,-7\}', 'x=7 or x=-7', 'x=-7,7'],
    ['(7,-7)'],
    [r'(1,2)\cup(3,4]', r'(3,4]\cup(1,2)'],
    ['x=1, y=2', 'y=2, x=1'],
    ['x=2, y=1'],
    ['No solution', 'none', r'\emptyset', r'\varnothing', r'\text{no solution}'],
    ['B', '(B)', r'\text{B}'],
    ['b'],
    ['yes', 'Yes', r'\text{yes}', 'Yes, because $1+1=2$.', 'Yes. It follows from the definition.'],
    ['no', 'No. There are two.'],
    ['cat'],
    ['act'],
    [r'\begin{pmatrix}1&2\\3&4\end{pmatrix}', r'\left[\begin{array}{cc}1&2\\3&4\end{array}\right]'],
    [r'\begin{pmatrix}1\\2\\3\end{pmatrix}', '(1,2,3)', r'\langle 1,2,3\rangle'],
    [
        r'\begin{cases}x & x>0\\0 & \text{otherwise}\end{cases}',
        r'\left\{\begin{array}{ll}0 & \text{otherwise} \\ x & \text{if } x>0\end{array}\right.',
    ],
    [r'max at $x=0$, min at $x=\pm 1$', 'min at $x=-1$ or $x=1$; max at $x=0$'],
    ['max at $x=0$ or $x=1$, min at $x=-1$'],
    [r'\mathbf{u}_1 \perp \mathbf{u}_2', r'u_2 \perp u_1'],
    ['e^{i\\pi}', '-1'],
    ['1+2i', '2i+1'],
    [r'2^{200}'],
    [r'2^{200}+1'],
    [r'1-\frac{1}{2^{100}}'],
    ['1'],
    [r'\infty'],
    [r'-\infty'],
    [r'\mathbb{R}', 'all real numbers', r'(-\infty,\infty)'],
    ['1,2'],
    ['12'],
    ['.5x', '0.5x', r'\frac{x}{2}'],
    ['5x', '5 x'],
    [r'.5\pi', r'\frac{\pi}{2}'],
    [r'5\pi'],
    ['y=.5x+1', r'y=\frac{x}{2}+1', '2y=x+2'],
    ['y=5x+1'],
    ['(.5,.25)', r'(\frac12, \frac14)'],
    ['.5 ft, .25 ft', '0.5, 0.25'],
    [r'2 \text{ and } 3', '2, 3', 'x=2 or x=3', r'x=2 \text{ or } x=3', r'$2$ \text{ and } $3$'],
    [r'27 \text{ square units}', '27'],
    ['√16', '4', 'sqrt16', 'sqrt(16)'],
    ['√12', r'2\sqrt{3}', '2√3'],
    ['√x', r'\sqrt{x}'],
    [r'x \not= 3', 'x≠3', r'x \neq 3', r'\{x \mid x \neq 3\}'],
    [r'\sin(x+30^\circ)', r'\sin(x+\frac{\pi}{6})'],
    [r'\sin(x+30)'],
    [r'\cos 30^\circ', 'cos(30°)', r'\frac{\sqrt{3}}{2}', r'\sin 60\degree'],
    [r'\sin^2 30^{\circ}', '0.25'],
    [r'0.1\overline{6}', '1/6', r'0.1\bar{6}'],
    [r'2.1\overline{6}', r'\frac{13}{6}'],
    [r'-0.\overline{3}', '-1/3'],
    ['1.38888888889', '25/18'],
    ['1.27777777778', '23/18'],
    [r'\text{none of these}'],
    [r'222,\! 333,\! 444', '222333444', r'222, \! 333, \! 444', r'222{,}333{,}444'],
    ['222'],
    [r'7,\!250 \text{ cm}^2', '7250', r'x = 7{,}250', r'\$7,\!250'],
    [r'\frac{7}{3,\!125}', r'\frac{7}{3125}'],
    ['(-7,250)', '(-7, 250)'],
    [r'\{3,250\}', '{250, 3}'],
    ['[-7,250]'],
    [r'\frac{\sqrt7}5', r'\frac{\sqrt{7}}{5}', r'\frac15\sqrt7'],
    [r'\tfrac{7\pi}3', r'\frac{7\pi}{3}', r'\frac \pi3\cdot7'],
    [r'\frac pq', r'\frac{p}{q}', 'p/q'],
    [r'\sqrt[3]5', r'\sqrt[3]{5}', '5^(1/3)', '5**(1/3)'],
    [r'\cos^2(t)', r'\cos^2 t', r'\cos^{2}(t)', r'1-\sin^2(t)'],
    [r'\cos(t^2)'],
    [
        r'\log_3 243',
        r'\log_{3}(243)',
        '5',
        r'\color{red}{5}',
        r'\bf 5',
        r'\large 5',
        '5\\',
        r'\angle PQR = 5^\circ',
        '|PQ|=5',
    ],
    [r'\log_2 81'],
    ['e^(3x)', 'e^{3x}'],
    [r'\text{(D)}', 'D', r'\textbf{(D)}', r'\text{D.}'],
    [r'\text{A,D,E}', 'A, D, E', 'E, D, A'],
    [r'\text{Maria.}', r'\text{Maria}'],
    ['63_8', '63', r'63_{8}', r'63_{\text{eight}}'],
    ['63_9'],
    ['3201_{7}', '3201_7'],
    ['3201_5'],
    ['1101_2', '1101'],
    [r'\text{Perimeter} = 26', '26', r'[ABC] = 26', r'\text{Area} = 26 \text{ cm}^2'],
    ['x_1 = 11, x_2 = 13', '11, 13'],
    ['C_1 = 2, C_2 = 3, C_3 = 2'],
    [r'x<-6 \text{ or } x>6', r'(-\infty,-6)\cup(6,\infty)', 'x > 6 or x < -6'],
    [
        r'x \neq 6',
        r'(-\infty,6)\cup(6,\infty)',
        r'\mathbb{R} \setminus \{6\}',
        r'\mathbb{R}-\{6\}',
        'all real numbers except 6',
    ],
    [r'x \neq \pm 6', r'\mathbb{R} \setminus \{6,-6\}', r'x \neq 6, x \neq -6'],
    [r'x>6 \text{ and } x<9', '(6,9)', '9 > x > 6'],
    ['p < q < r', 'r > q > p'],
    ['p > q > r'],
    [r'\{3\pm\sqrt{7},-1\}', r'\{-1, 3-\sqrt7, 3+\sqrt7\}'],
    [r'\frac{1}{1500!}'],
    [r'\frac{1}{1501!}'],
    ['e^{-120}'],
    ['e^{-121}'],
    ['3¼', '3.25', r'3\frac14'],
    [
        r'\binom73',
        r'\binom{7}{3}',
        r'\dbinom 73',
        '35',
        'E[X] = 35',
        r'\mathbb{E}[X]=35',
        r'{7 \choose 3}',
        '_7C_3',
        r'35^{\text{th}}',
        '35th',
        r'\text{Area: }35',
        r'\text{the area is }35',
        r'35\,\mathrm{m/s^2}',
        r'35{\rm cm}',
        '35°C',
        r'35\tag{1}',
        r'\lim_{x\to0}f(x)=35',
        '`35`',
        '３５',
    ],
    ['0'],
    [r'6 \text{ million}', '6000000', r'\$6\text{ million}', '6 million people'],
    ['6 thousand', '6,000'],
    ['6'],
    ["g'(x)", r'g^{\prime}(x)'],
    ["g''(x)"],
    ['g(x)'],
    ["y'=2y", "y'-2y=0"],
    ["y''=2y"],
    [r'\sqrt[3]{-64}', '-4'],
    [r'\sqrt[3]{s^2}', 's^{2/3}'],
    ['6 p.m.', r'\text{6:00 PM}', '6pm'],
    ['6 a.m.', '6:00 am'],
    ['2021-03-04'],
    ['2:3:5', 'a:b:c=4:6:10'],
    ['3 feet 8 inches', r'3\text{ feet and }8\text{ inches}', '3 feet and 8 inches'],
    ['8 feet 3 inches'],
    ['Carol, Dave', r'\text{Dave and Carol}'],
    ['Carol', r'\texttt{Carol}', r'\text{"Carol"}', r'\text{\textbf{Carol}}'],
    [r'\mathrm{XI}'],
    [r'\mathrm{IX}'],
    [r'14_{\text{base }5}', '14_5', r'14_{(5)}', r'14_\text{five}', '14 base 5'],
    [r'14_{\text{base }7}'],
    ['0x2C', '2C_{16}'],
    ['0x2D'],
    [r'(-\infty,1), (4,\infty)', r'(-\infty,1) U (4,\infty)', r'x<1 \cup x>4', r'x<1 \text{ or } x>4'],
    ['[4,8[', r'4\leq x<8'],
    [r'\{4\}\cup\{8\}', '4, 8'],
    [r'x\in\mathbb{R}, x\neq 8', r'x \in \mathbb{R} \text{ except } 8', r'x \ne 8'],
    [r'f^{-1}(x)=\frac{x-3}{2}', r'\frac{x-3}{2}'],
    [r'1+8\text{i}', '1+8i', r'1+8\imath'],
    [r'\text{e}^8', 'e^8'],
    [r'8t\text{ cm}', '8t'],
    ['abs(t+1)', '|t+1|'],
    ['floor(t+1)', r'\lfloor t+1\rfloor', '⌊t+1⌋'],
    [r'\begin{pmatrix}1&2\\[1ex]3&5\end{pmatrix}', r'\begin{bmatrix}1&2\cr 3&5\end{bmatrix}'],
    ['x₁⁴', 'x_1^4'],
    ['x=2 (mod 7)', r'x=2 \pmod{7}'],
    ['ℤ', r'\mathbb{Z}'],
]
POOL = [a for c in CLASSES for a in c]


def test_equivalence_classes():
    forms = [{canonical(a) for a in c} for c in CLASSES]
    for c, f in zip(CLASSES, forms):
        assert len(f) == 1, [(a, canonical(a)) for a in c]
    merged = {}
    for c, f in zip(CLASSES, forms):
        merged.setdefault(min(f), []).append(c)
    assert len(merged) == len(CLASSES), [v for v in merged.values() if len(v) > 1]
    assert not [a for a in POOL if parse(a)[1]], 'some are compared as text only'


@given(st.lists(st.sampled_from([*POOL, None]), max_size=9), st.randoms())
@settings(deadline=None, max_examples=200)
def test_groups_are_order_independent(found, rnd):
    def as_sets(xs):
        return {frozenset(order[i] for i in g) for g in group(xs)}

    order = list(range(len(found)))
    straight = as_sets(found)
    rnd.shuffle(order)
    assert as_sets([found[i] for i in order]) == straight
    assert sorted(i for g in straight for i in g) == [i for i, a in enumerate(found) if a is not None]


@given(st.sampled_from(POOL), st.sampled_from(POOL), st.sampled_from(POOL))
def test_same_is_an_equivalence_relation(a, b, c):
    assert same(a, a) and same(a, b) == same(b, a)
    if same(a, b) and same(b, c):
        assert same(a, c)
    assert not same(a, None) and not same(None, a) and not same(None, None)


@given(st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=1000), st.data())
@settings(deadline=None, max_examples=150)
def test_equal_numbers_in_any_spelling(v, data):
    n, d = v.numerator, v.denominator
    ways = [
        spell(v),
        f'{n}/{d}',
        f'\\frac{{{n}}}{{{d}}}',
        f'\\dfrac{{{n}}}{{{d}}}',
        f'${spell(v)}$',
        f'x = {spell(v)}',
        f'{spell(v)}%',
    ] + ([f'{n:,}', f'{n:,}.00', f'{n}.0', f'\\text{{{n}}}'] if d == 1 else [])
    a, b = data.draw(st.sampled_from(ways)), data.draw(st.sampled_from(ways))
    assert same(a, b), (a, b)
    assert not same(a, spell(v + Fraction(1, 1000)))


names = st.sampled_from('xyzabt')
polynomials = st.lists(st.tuples(st.integers(-9, 9).filter(bool), names, st.integers(1, 4)), min_size=1, max_size=4)


@given(polynomials, st.randoms())
@settings(deadline=None, max_examples=60)
def test_commuted_terms_are_equal(terms, rnd):
    def written(ts):
        return ' + '.join(f'({c})\\cdot {x}^{{{n}}}' for c, x, n in ts)

    other = terms[:]
    rnd.shuffle(other)
    assert same(written(terms), written(other)) and not same(written(terms), written(terms) + ' + 1')


@pytest.mark.parametrize(
    'text',
    [
        'The last column must not be a pivot column.',
        'It does not change the determinant. This was just taking the transpose.',
        'The P-value 0.22 does not imply the null hypothesis is correct. It may be that the sample is too small.',
        'The rank is $3$, so both systems have a unique solution. '
        'The first is $(1,0,1)$, and the second of them all is $(1,1,2)$.',
        'If $k<2$ the ratio is $\\frac{1}{2}$; if $k>2$, the ratio is zero: the window should be round.',
        'The second row was multiplied by 2 so the determinant is 2 times that of the first matrix.',
    ],
)
def test_prose_has_no_symbolic_value(text):
    assert parse(text)[1] == 'prose' and canonical(text).startswith('text:')


def test_box_with_prose_is_kept_whole():
    text = r'$D$ is smallest when $x=-\frac{2}{5}$, so the point is $(-\frac{2}{5}, \frac{1}{5})$'
    assert extract(f'\\boxed{{{text}}}', 'math') == text


def test_parse_timeout_has_a_form_of_its_own(monkeypatch):
    class Slow:
        def ask(self, q):
            return dict(failed='timeout')

    monkeypatch.setattr(answers, 'helper', lambda function: Slow())
    slow = parse(r'\strange{7}')
    answers._parse.cache_clear()
    assert slow.why == 'timeout' and slow.form.startswith('timeout:')
    assert parse(r'\strange {7}').form == slow.form != parse(r'\strange{8}').form
    answers._parse.cache_clear()


@needs_shared
def test_every_gold_answer_is_parsed():
    def rows(name):
        return [json.loads(line) for line in open(DATA / name, encoding='utf-8')]

    golds = [extract(x['answer']) for f in ('train', 'test') for x in rows(f'gsm8k/{f}.jsonl')] + [
        extract(str(x['Answer'])) for x in rows('svamp/test.jsonl')
    ]
    assert len(golds) == 7473 + 1319 + 1000 and not [a for a in golds if a is None or parse(a)[1]]
    for a in golds:
        assert same(a, f'{a}.00') if a.isdigit() else True
    assert not [
        x for x in rows('mmlu_stem/test.jsonl') if extract(f'({"ABCD"[x["answer"]]})', 'choice') != 'ABCD'[x['answer']]
    ]


def test_inverse_functions_are_read_however_the_power_is_bracketed():
    for a, b in [('f^(-1)(x)', 'f^{-1}(x)'), ('f^(-1)(x) = (x-3)/2', r'f^{-1}(x)=\frac{x-3}{2}')]:
        assert same(a, b)
    assert same('2^(-1)(3)', '3/2') and not same('f^(-1)(x)', 'f(x)')


@needs_shared
@pytest.mark.slow
def test_college_math_golds_are_parsed_and_equal_themselves():
    golds = [json.loads(line)['answer'] for line in open(DATA / 'college_math/test.jsonl', encoding='utf-8')]
    why = [parse(a)[1] for a in golds]
    values = [a for a, w in zip(golds, why) if not w]
    assert (
        len(values) >= 0.97 * len(golds)
        and 'timeout' not in why
        and {*why} <= {'', 'prose', 'not understood by math-verify', 'two numbers side by side'}
    )
    changed = {}
    for rewrite in (
        lambda a: a.replace('\\frac', '\\dfrac'),
        lambda a: re.sub(r'(?<=[a-zA-Z0-9}])(?!(?<=[a-z]{3})-[a-z]{3})\s*([-+=])\s*(?=[\\a-zA-Z0-9])', r' \1 ', a),
        lambda a: re.sub(r'(?<![\d.,^_{(\[])\d{4,9}(?![\d.,}])', lambda m: f'{int(m[0]):,}', a),
        lambda a: re.sub(r'(?<!\d)(?<!\d )\\frac\{(\d)\}\{([245])\}', lambda m: f'{int(m[1]) / int(m[2])} ', a),
    ):
        changed |= {a: rewrite(a) for a in values if rewrite(a) != a and not same(a, rewrite(a))}
    assert not changed, changed


# No hang, no crash -----------------------------------------------------------------------------------------

EXPENSIVE = [
    '9^{9^{9^9}}',
    '9' + '!' * 40,
    '10^{10^{10}}!',
    '7' * 1_000_000,
    '{' * 10_000 + '}' * 10_000,
    '\\boxed{' + '{' * 10_000,
    '\\boxed{' * 5_000 + '1' + '}' * 5_000,
    '(' * 10_000,
    '\\frac{' * 25 + 'x' + '}{2}' * 25,
    '\\sqrt{' * 29 + '2' + '}' * 29,
    '|x||y||z|' * 12,
    '|x|' * 4,
    '\\binom{10000000}{5000000}',
    '\\binom{10^9}{10^8}',
    '\\gcd(9^{9^9},3)',
    '(2, 9^{9^{9^9}})',
    '\\int_0^1 e^{x^x}dx',
    '\\sum_{n=1}^{10^{10}} n!',
    'e^{e^{e^{e^{9}}}}',
    '\\sin(10^{10^{10}})',
    '\\lim_{x \\to 0} 9^{9^{9^x}}',
    'a\x00b',
    '\x1b[2J',
    '\ud83d',
    '\\boxed{\udc00}',
    '\\',
    '$',
    '$$',
    '$$$',
    '\\boxed',
    '{',
    '}',
    '',
    ' ',
    '\u202e12\u202c',
    '١٢',
    '１２',
    'NaN',
    'inf',
    '-',
    '--5',
    '1/0',
    '0/0',
    '\\frac{1}{0}',
    '0^{-1}',
    '\\log(0)',
    '\\tan(\\frac{\\pi}{2})',
    '1e999999999',
    '1e-999',
    '.' * 5000,
    ',' * 5000,
    '1,' * 900,
    'x=' * 900,
    '\\pm' * 600,
    '\\cup' * 400,
    '\\text{' * 29 + '}' * 29,
    '\\begin{pmatrix}' * 100,
    '\\begin{pmatrix}' + '1&' * 500 + '\\end{pmatrix}',
    '\\left(' * 200,
    'x_{' * 29 + '}' * 29,
    'x^' * 59 + '2',
    '\\operatorname{zeros}(100000,100000)',
    '\\operatorname{eye}(10000000)',
    '\\begin{bmatrix}9&9\\\\9&9\\end{bmatrix}^{999999999}',
    '\\det\\begin{bmatrix}a&b\\\\c&d\\end{bmatrix}',
    'a' * 1999,
    'ab ' * 600,
    '\\a\\b\\c' * 300,
]
INJECTIONS = [
    '__import__("os").system("touch {}")',
    'open("{}","w")',
    '\\operatorname{{exec}}(open("{}","w"))',
    "eval(\"open('{}','w')\")",
    '(lambda: open("{}","w"))()',
    '$__class__.__mro__[1].__subclasses__()$',
    'x.__class__',
    '{{0.__class__}}',
    '%s%n',
    "S(\"open('{}','w')\")",
    '\\text{{__import__("os").system("touch {}")}}',
    'x_{{__import__("os").system("touch {}")}}',
    '\\gcd(__import__("os").system("touch {}"),2)',
    "sympify(\"open('{}','w')\")",
    '\\mathrm{{open("{}","w")}}',
    '\\input{{{}}}',
    '\\write18{{touch {}}}',
]


def check_any_text(text):
    "Invariants of parsing for any text."
    for kind in ('number', 'math', 'choice'):
        a = extract(text, kind)
        assert a is None or isinstance(a, str) and a
    f = canonical(text)
    assert isinstance(f, str) and len(f) <= 400 and same(text, text)
    return f


@pytest.mark.parametrize('text', EXPENSIVE, ids=lambda t: f'{len(t)}-{ascii(t[:16])}')
def test_expensive_expressions_end_in_time(text):
    check_any_text(text)
    check_any_text(f'The answer is \\boxed{{{text}}}.')


def test_injected_code_is_not_executed(tmp_path):
    there = tmp_path / 'was-here'
    for t in INJECTIONS:
        check_any_text(t.format(there))
        check_any_text(f'\\boxed{{{t.format(there)}}}')
    assert not there.exists()


SEEDS = [a for a in POOL if len(a) < 80] + [
    r'y=c_{1} e^{-2t} \cos(3t)',
    r'\left[\begin{array}{cc}1 & 2 \\ 3 & 4\end{array}\right]',
    r'\sum_{n=0}^{\infty} \frac{x^n}{n!}',
    r'\frac{-1 \pm i\sqrt{3}}{2}',
    'The answer is $x=5$ because $3+2=5$.',
    r'$\min$ at $x=1$',
    r'\bigcup_{k=-\infty}^{\infty}\left(\frac{k\pi}{2}, k\pi\right)',
    r'\ln\left|x+\sqrt{1+x^2}\right|+C',
]
TOKENS = [
    '\\frac',
    '\\sqrt',
    '{',
    '}',
    '(',
    ')',
    '[',
    ']',
    '^',
    '_',
    '\\left',
    '\\right',
    '|',
    '!',
    '9',
    '0',
    '.',
    ',',
    ';',
    '$',
    '=',
    '<',
    '\\pm',
    '\\cup',
    '\\text{',
    '\\infty',
    '\\pi',
    'x',
    'i',
    'e',
    '-',
    '+',
    '/',
    '\\\\',
    '&',
    '%',
    '\\boxed{',
    '\\binom',
    '\\int',
    '\\log',
    '\\in',
    ' and ',
    '\n',
    '\x00',
    '\ud800',
    '𝟗',
    '½',
    '\\',
]


def mutants(n, seed):
    "Seeded random strings that look like mathematics."
    rnd = random.Random(seed)
    for _ in range(n):
        s = rnd.choice(SEEDS)
        for _ in range(rnd.randrange(1, 7)):
            i, j = sorted(rnd.randrange(len(s) + 1) for _ in range(2))
            s = rnd.choice(
                [
                    lambda: s[:i] + rnd.choice(TOKENS) + s[i:],
                    lambda: s[:i] + s[j:],
                    lambda: s[:j] + s[i:j] * rnd.randrange(1, 4) + s[j:],
                    lambda: s[:i] + rnd.choice(SEEDS) + s[i:],
                    lambda: s[:i] + s[i:j][::-1] + s[j:],
                ]
            )()[:3000]
        yield s


def memory(pid):
    return (
        int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{pid}/status').read_text())[1]) / 1024
        if Path(f'/proc/{pid}/status').exists()
        else 0
    )


def check_mutants(n, seed):
    before, found = memory(os.getpid()), {}
    for s in mutants(n, seed):
        found[s] = check_any_text(s)
    slow = [s for s in found if parse(s)[1] == 'timeout']
    assert len(slow) <= n / 100, slow  # limits decide, not the clock
    assert memory(os.getpid()) - before < 300
    answers._parse.cache_clear()
    for s in [*found][: n // 10]:
        assert canonical(s) == found[s]


def test_fuzz_1000_mutants():
    check_mutants(1000, 1)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2, 12))
def test_fuzz_10000_mutants(seed):
    "All of them: pytest -m slow -k 10000_mutants."
    check_mutants(1000, seed)


@given(st.text(alphabet=st.characters(), max_size=40))
@settings(deadline=None, max_examples=100)
def test_fuzz_any_text_has_a_form(text):
    check_any_text(text)


# The helper process -----------------------------------------------------------------------------------------

FRESH = iter(range(10**6))


def new_number():
    return f'\\sqrt{{{next(FRESH)}}}+x'


def test_sandbox_from_many_threads():
    asked = [new_number() for _ in range(60)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(canonical, asked))
    answers._parse.cache_clear()
    assert found == [canonical(a) for a in asked]


def test_math_verify_fails_outside_the_main_thread():
    "The reason for a process: its own alarm needs the main thread. Ours answers."
    found = []
    t = threading.Thread(target=lambda: found.append(same(new_number(), '7')))
    t.start()
    t.join(60)
    assert found == [False]


def in_child(a):
    return canonical(a), os.getpid()


@pytest.mark.parametrize('how', ['fork', 'spawn'])
@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_sandbox_from_worker_processes(how):
    asked = [new_number() for _ in range(6)]
    ours = canonical(asked[0]), answers.helper('read_form').process.pid
    answers._parse.cache_clear()
    with multiprocessing.get_context(how).Pool(2) as pool:
        found = pool.map(in_child, asked, chunksize=1)
    assert [f for f, _ in found] == [canonical(a) for a in asked] and os.getpid() not in {p for _, p in found}
    assert answers.helper('read_form').process.pid == ours[1] and canonical(asked[0]) == ours[0]


def test_sandbox_restarts_after_sigkill():
    want = canonical('\\sqrt{2}+y')
    os.kill(answers.helper('read_form').process.pid, signal.SIGKILL)
    answers._parse.cache_clear()
    assert canonical('\\sqrt{2}+y') == want


SCRIPT = """
from multiagent_ft.answers import reading as answers
print(answers.same(r"\\sqrt{8}", r"2\\sqrt{2}"), answers.helper('read_form').process.pid, flush=True)
%s
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        'Z' not in Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1][:3]
        if Path(f'/proc/{pid}/stat').exists()
        else True
    )


@pytest.mark.parametrize(
    'ending', ['', 'raise SystemExit(3)', '1/0', 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)']
)
def test_sandbox_leaves_no_process(ending, tmp_path):
    "Also: a user's script needs no `if __name__ == '__main__'`, and no secrets are passed on."
    (tmp_path / 'script.py').write_text(SCRIPT % ending)
    done = subprocess.run(
        [sys.executable, 'script.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.stdout.count('True') == 1, done.stderr
    pid = int(done.stdout.split()[1])
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.1)
    assert not alive(pid)


def test_sandbox_gets_no_secrets_of_the_environment(monkeypatch):
    monkeypatch.setenv('SOME_API_KEY', 'secret')
    box = Sandbox('os', 'getenv')
    assert box.ask('SOME_API_KEY') == {'answer': None} and box.ask('PATH')['answer']
    box.close()


def test_import_starts_no_process():
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'import sys; from multiagent_ft.answers import reading as answers; '
            'print(answers.helper.cache_info().currsize, "sympy" in sys.modules, answers.same("1/2", "0.5"), '
            'answers.helper.cache_info().currsize)',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ['0', 'False', 'True', '0'], done.stderr


# The pieces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'text,why',
    [
        ('x' * (LENGTH + 1), 'too long'),
        ('1 2', 'two numbers side by side'),
        ('sqrt(2', 'brackets do not match'),
        ('9^{9^{9^9}}', 'too large'),
        ('There is no possible choice of k that makes these matrices commute', 'prose'),
        ('\\frac{1}{', 'brackets do not match'),
        ('\\frac{1}', 'an argument is missing'),
        ('[1', 'not understood'),
        ('\\intnvent\\intnverli\\intne', 'no command of LaTeX'),
        ('', 'empty'),
        ('x=', 'half a relation'),
        ('5!!', 'a double factorial'),
        (r'p \lor q', 'logic'),
    ],
)
def test_unread_names_the_reason(text, why):
    with pytest.raises(Unread, match=why):
        form(text)


def test_thousands_separators_are_not_lists():
    assert (
        tidy('12,000') == '12000'
        and tidy('1,2') == '1,2'
        and tidy('(1,200)') == '(1,200)'
        and tidy('1,200,300') == '1200300'
        and tidy('1,2000') == '1,2000'
        and tidy('(3/1,000)') == '(3/1000)'
    )
