"""`maft bench` measures real work; no test asserts how fast it was."""

import json, shutil
from pathlib import Path

import pytest
from conftest import maft
from multiagent_ft import bench
from multiagent_ft.core import MaftError
from multiagent_ft.engines.weights import find_model


def run_bench(*args):
    return maft('bench', *args, env={'OMP_NUM_THREADS': '1'})


def test_bench_on_nano():
    s = bench.speeds('nano', layers=4, dtype='auto', questions=4, few=1, new=24, top_p=1.0, workers=0, threads=1)
    g, f = s['generation'], s['finetuning']
    assert (
        g['answers'] == 4 * 9
        and g['naive_answers'] == 9
        and 0 < g['tokens'] <= 24 * 36
        and f['agents'] == 6
        and f['examples'] == 24
    )
    assert (
        all(x[k] > 0 for x in (g, f) for k in ('ours', 'naive', 'upper_bound'))
        and f['trl_defaults'] > 0
        and g['matmul'] > 0
    )


@pytest.mark.slow
def test_run_time_is_generation_training_and_overhead(tmp_path):
    r = bench.overhead(str(tmp_path), questions=4)
    assert (
        r['generating'] > 0
        and r['training'] > 0
        and abs(r['generating'] + r['training'] + r['share'] * r['seconds'] - r['seconds']) < 1e-6 * r['seconds']
        and 0 < r['share'] < 1
    )


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_subprocess():
    a, b = (
        bench.in_a_process('peak_memory', case=c, model='nano', dtype='auto', questions=2, new=8)
        for c in ('one', 'copies')
    )
    assert (
        a['copies'] == 1
        and b['copies'] == 6
        and a['model'] == b['model'] == 4 * 1_172_960
        and a['peak'] > a['model']
        and b['adapters'] > 0
    )


def test_random_model_generates_only_tokens_of_the_tokenizer(tmp_path):
    from multiagent_ft.method.prompts import Request, Sampling
    from multiagent_ft.engines.huggingface import HFEngine
    from multiagent_ft.method.prompts import opening

    e = HFEngine(bench.half_billion(tmp_path / 'm', layers=1), batch_size=4)
    completions = e.generate([Request(opening('What is 1+1?'), i, Sampling(1.0, 1.0, 12)) for i in range(4)])
    assert (
        e.base.model.config.vocab_size == 151_936
        and max(t for c in completions for t in c.token_ids) < len(e.base.tokenizer)
        and any(c.text.strip() for c in completions)
    )


@pytest.mark.slow
def test_json_of_bench_is_one_document_on_stdout():
    p = run_bench('--model', 'nano', '--part', 'overhead', '--json')
    assert p.returncode == 0, p.stderr
    assert {'machine', 'models', 'overhead'} <= set(json.loads(p.stdout))


def test_bench_errors(tmp_path):
    with pytest.raises(MaftError, match='unknown part'):
        bench.bench(['nano'], parts=('sped',))
    p = run_bench('--part', 'sped')
    assert p.returncode == 2 and 'unknown part' in p.stderr and 'Traceback' not in p.stderr
    p = run_bench('--model', tmp_path / 'nowhere', '--part', 'speed', '--json', '--out', tmp_path / 'page.json')
    # refused before anything is measured
    assert (
        p.returncode == 2
        and 'no such folder' in p.stderr
        and 'Traceback' not in p.stderr
        and not (tmp_path / 'page.json').exists()
    )
    shutil.copytree(Path(find_model('nano')), tmp_path / 'bare', ignore=shutil.ignore_patterns('*.safetensors'))
    p = run_bench('--model', tmp_path / 'bare', '--part', 'speed', '--json', '--out', tmp_path / 'page.json')
    assert (
        p.returncode == 2
        and 'not everything could be measured' in p.stderr
        and 'Traceback' not in p.stderr
        and 'core.MaftError' not in p.stderr
        and json.loads(p.stdout) == json.loads((tmp_path / 'page.json').read_text())
    )


def test_tables_of_committed_bench_json():
    page = json.loads((Path(__file__).parent.parent / 'nbs' / 'data' / 'bench.json').read_text())
    titles = [t for t, _ in bench.tables(page)]
    assert (
        not bench.failures(page)
        and len(titles) == 5
        and all(len(line) == len(lines[0]) for _, lines in bench.tables(page) for line in lines)
    )
    assert bench.failures(dict(models={'x': dict(speed=dict(error='broke'))})) == ['x: speed: broke']


def test_bench_beside_other_programs(tmp_path):
    few = bench.Compared(few=1, new=12, vllm=str(tmp_path / 'no-python'))
    e = bench.compare_engines('nano', questions=3, threads=1, **few._asdict() | dict(vllm=None))
    assert list(e['rows']) == ['this package', 'transformers, one batch', 'transformers, one by one']
    assert e['dtype'] == 'float32' and all(0 < m['tokens'] <= 36 and m['cpu'] > 0 for m in e['rows'].values())
    asked = bench.Asked([(1, 2)], [3], 0, new=2, top_p=1.0, dtype='float32')
    broken = tmp_path / 'python'
    broken.write_text('#!/bin/sh\necho no vllm here >&2\nexit 1\n')
    broken.chmod(0o755)
    e['rows']['vLLM'] = bench.bare_vllm('nano', asked, str(broken), folder=tmp_path)
    e['rows']['vLLM, engine of this package'] = bench.vllm_engine('nano', asked, [], python=str(broken))
    head, ours, *_, vllm, engine = bench.engines_table('nano', e).lines
    assert head[0] == 'program' and ours[-2:] == ['1.00', '1.00'] and vllm[2] == 'failed: no vllm here'
    assert engine[2] == f'failed: {broken} is no Python that runs: python names the interpreter that has vLLM.'
